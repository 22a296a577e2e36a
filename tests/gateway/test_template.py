from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock, uuid_text
from gateway.consumers import Consumer
from gateway.exchange import Exchange
from gateway.problem import BadRequest
from gateway.template import Template
from gateway.tls.certificate import ClientCertificate
from tests.play import ask


def exchange(target: str = "/books/7?lang=en", **fields: str) -> Exchange:
    request = ask(target, "POST", **fields)
    request.client, request.host = "192.0.2.7", "api.example.com:8080"
    made = Exchange(request, Clock())
    made.route = "books"
    made.parameters = {"id": "a b/ü", "plain": "7"}
    made.consumer = Consumer("bob", "acme")
    return made


def test_every_name_has_its_value():
    going = exchange(user_agent="curl")
    names = "authority client consumer host method organization path query route scheme target"
    text = " ".join(f"{{{name}}}" for name in names.split())
    assert Template(text).render(going) == (
        "api.example.com:8080 192.0.2.7 bob api.example.com POST acme /books/7 lang=en books http /books/7?lang=en"
    )
    assert Template("{request.id}").render(going) == uuid_text(going.id)
    assert Template("{header.user-agent}/{param.plain}").render(going) == "curl/7"


def test_the_names_in_a_client_s_certificate_are_values():
    going = exchange()
    text = "{certificate.subject}|{certificate.dns}|{certificate.uri}|{certificate.email}|{certificate.fingerprint}"
    assert Template(text).render(going) == "||||"
    subject, names = "CN=Zoë\r\nX: 1,O=Acme 5%", ("a.example", "b.example")
    uris, emails = ("spiffe://acme/robot",), ("bob@acme.example",)
    going.request.certificate = ClientCertificate(subject, names, uris, emails, "ab", 0.0)
    assert Template(text).render(going) == (
        "CN=Zo%C3%AB%0D%0AX: 1,O=Acme 5%25|a.example, b.example|spiffe://acme/robot|bob@acme.example|ab"
    )


@pytest.mark.parametrize(("host", "name"), [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a"), ("", "")])
def test_the_host_is_the_name_without_its_port(host: str, name: str):
    going = exchange()
    going.request.host = host
    assert Template("{host}").render(going) == name


def test_braces_are_doubled_and_percents_are_percents():
    template = Template("{{x}} 100% %s")
    assert template.fixed == "{x} 100% %s"
    assert Template("{{{method}}} 5%").render(exchange()) == "{POST} 5%"
    assert Template("{method}").fixed is None


def test_what_there_is_not_is_empty():
    going = exchange()
    going.consumer = None
    assert Template("<{consumer}{organization}{param.x}{header.x}>").render(going) == "<>"


def test_a_parameter_cannot_break_out_of_a_header():
    going = exchange()
    going.parameters = {"id": "a\r\nX: y\x00 ü%41"}
    assert Template("{param.id}").render(going) == "a%0D%0AX: y%00 %C3%BC%2541"


@given(st.text(), st.text("abc \t\xe9%/"))
def test_no_control_character_ever_results(parameter: str, field: str):
    going = exchange(x=field)
    going.parameters = {"id": parameter}
    rendered = Template("{param.id}{header.x}").render(going)
    assert re.fullmatch(r"[ -~\x80-\xff]*", rendered)


@given(st.text(min_size=1))
def test_in_a_url_a_value_stays_in_its_place(parameter: str):
    going = exchange()
    going.parameters = {"id": parameter}
    rendered = Template("/v2/{param.id}/x", url=True).render(going)
    assert re.fullmatch(r"/v2/[A-Za-z0-9._~%-]+/x", rendered)
    assert unquote(rendered) == f"/v2/{parameter}/x"


def test_in_a_url_its_own_parts_stay_as_they_came():
    going = exchange("/a%2Fb?c=%20")
    assert Template("https://{host}{target}", url=True).render(going) == "https://api.example.com/a%2Fb?c=%20"
    assert Template("{header.x}", url=True).render(exchange(x="a/\xfc")) == "a%2F%FC"


@pytest.mark.parametrize("name", ["param.x", "header.x", "consumer", "host"])
def test_a_url_without_one_of_its_parts_is_a_bad_request(name: str):
    going = exchange()
    going.consumer, going.request.host = None, ""
    with pytest.raises(BadRequest, match=name):
        Template(f"/{{{name}}}", url=True).render(going)
    assert Template("/?{query}", url=True).render(exchange("/")) == "/?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nobody}", "unknown name"),
        ("{}", "unknown name"),
        ("{param.}", "unknown name"),
        ("{header.a b}", "unknown name"),
        ("{client", "brace without its other"),
        ("client}", "brace without its other"),
        ("{a{b}}", "brace without its other"),
        ("a\nb", "no header field can hold"),
        ("€", "no header field can hold"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        Template(text)


@pytest.mark.parametrize("text", ["/a b", "/ü", "/%zz", '/"', "/a\\b"])
def test_what_is_no_part_of_a_url_is_refused(text: str):
    with pytest.raises(ValueError, match="not a part of a URL"):
        Template(text, url=True)
