from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.composition import ConfigError
from gateway.consumers import ConsumerOptions
from gateway.exchange import Request
from gateway.tls.certificate import ClientCertificate
from plugins.any_of import AnyOf
from plugins.key_auth import KeyAuth
from plugins.mtls_auth import MtlsAuth
from tests.fixtures.certificates import Authority, authority
from tests.fixtures.configuration import here, loaded
from tests.fixtures.conversation import serving
from tests.fixtures.secure_conversation import calling_securely
from tests.fixtures.wire import Target
from tests.play import KEY, Played, Stage, ask

__all__ = ["authority", "here"]

ROBOT = ClientCertificate(
    "CN=robot,O=Acme", ("robot.acme.example",), ("spiffe://acme/robot",), ("r@acme.example",), "ab" * 32, 4e9
)
MAPPING = {"name": "{certificate.dns}", "organization": "partners"}


def consumer(name: str, *certificates: dict[str, str]) -> ConsumerOptions:
    numbered = [{"id": f"{name}-{n}", **certificate} for n, certificate in enumerate(certificates)]
    return ConsumerOptions.model_validate({"name": name, "organization": "acme", "certificates": numbered})


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    known = [
        consumer("by-fingerprint", {"fingerprint": "AA:" * 31 + "AA"}),
        consumer("by-uri", {"uri": "spiffe://acme/robot"}),
        consumer("by-dns", {"dns": "Other.Acme.example"}),
        consumer("by-subject", {"subject": "CN=other,O=Acme"}, {"email": "o@acme.example"}),
    ]
    stage = Stage(tmp_path / "journal", consumers=known)
    yield stage
    await stage.close()


def showing(certificate: ClientCertificate | None, **fields: str) -> Request:
    request = ask(**fields)
    request.certificate = certificate
    return request


async def play(stage: Stage, certificate: ClientCertificate | None, **options: Any) -> Played:
    return await stage.play(stage.make(MtlsAuth, **options), request=showing(certificate))


NOBODY = ClientCertificate("CN=nobody", (), (), (), "cd" * 32, 4e9)


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (ROBOT, "by-uri"),
        (replace(NOBODY, fingerprint="aa" * 32), "by-fingerprint"),
        (replace(NOBODY, dns_names=("x.example", "OTHER.acme.example")), "by-dns"),
        (replace(NOBODY, subject="CN=other,O=Acme"), "by-subject"),
        (replace(NOBODY, subject="CN=other,O=Acme", emails=("o@acme.example",)), "by-subject"),
    ],
)
async def test_a_certificate_is_known_by_what_it_says(stage: Stage, certificate: ClientCertificate, name: str):
    found = (await play(stage, certificate)).exchange.consumer
    assert (found.name, found.organization) == (name, "acme")
    assert found.key.startswith(name)
    assert found.attributes["certificate.subject"] == certificate.subject
    assert found.attributes["certificate.fingerprint"] == certificate.fingerprint


async def test_it_is_looked_up_once(stage: Stage):
    plugin = stage.make(MtlsAuth)
    one, two = [(await stage.play(plugin, request=showing(ROBOT))).exchange.consumer for _ in range(2)]
    assert one is two
    assert one.attributes["certificate.uri"] == "spiffe://acme/robot"


async def test_a_mapping_makes_consumers_of_all_others(stage: Stage):
    played = await play(stage, replace(NOBODY, dns_names=("Partner.example",)), mapping=MAPPING)
    found = played.exchange.consumer
    assert (found.name, found.organization, found.key) == ("partner.example", "partners", "cd" * 8)
    assert (await play(stage, ROBOT, mapping=MAPPING)).exchange.consumer.name == "by-uri"


# Attacks


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        NOBODY,
        replace(ROBOT, expires_at=1.0),  # since the handshake
        replace(ROBOT, subject="CN=other,O=Acme"),  # two could call it theirs
        replace(NOBODY, subject="CN=other,O=Acme,C=DE"),
        replace(NOBODY, subject="CN=other\\,O=Acme"),
        replace(NOBODY, dns_names=("spiffe://acme/robot",)),  # said, but as something else
        replace(NOBODY, uris=("spiffe://acme/robot/",)),
        replace(NOBODY, uris=("SPIFFE://acme/robot",)),
        replace(NOBODY, dns_names=("*.acme.example",)),
    ],
)
async def test_what_is_nobodys_is_refused(stage: Stage, certificate: ClientCertificate | None):
    played = await play(stage, certificate)
    assert played.response.status == 401
    assert played.response.headers["www-authenticate"] == 'Certificate realm="tallygate"'
    assert played.seen_upstream is None


@pytest.mark.parametrize(
    "names", [(), ("a.example", "b.example"), ("",), ("a\r\nX-Admin: 1",), ("\u0430.example",), ("a" * 129,), (" a",)]
)
async def test_a_mapping_takes_one_name_that_can_be_written_down(stage: Stage, names: tuple[str, ...]):
    played = await play(stage, replace(NOBODY, dns_names=names), mapping=MAPPING)
    assert played.response.status == 401


PRETENDED = {
    "client_cert": ":MIIB:",
    "client_cert_chain": ":MIIB:",
    "x_forwarded_client_cert": "URI=spiffe://acme/robot",
    "x_ssl_client_s_dn": "CN=other,O=Acme",
}


@pytest.mark.parametrize("field", ["client-cert", "Client_Cert", "CLIENT-CERT_chain", "x-forwarded_client-cert"])
async def test_nor_are_they_where_another_credential_decides(stage: Stage, field: str):
    plugin = stage.make(AnyOf, plugins=[{"key_auth": {}}])
    plugin.parts = (stage.make(KeyAuth), stage.make(MtlsAuth))
    await plugin.start()
    for request in (ask(x_api_key=KEY), showing(ROBOT)):
        request.headers.add(field, "URI=spiffe://acme/robot")
        request.headers.add(field, "again")
        passed = await stage.play(plugin, request=request)
        assert passed.seen_upstream is not None
        assert field not in passed.seen_upstream.headers


async def test_fields_that_tell_of_a_certificate_are_not_believed(stage: Stage):
    refused = await stage.play(stage.make(MtlsAuth), request=showing(None, **PRETENDED))
    assert refused.response.status == 401
    passed = await stage.play(stage.make(MtlsAuth), request=showing(ROBOT, **PRETENDED))
    assert passed.seen_upstream is not None
    for name in ("client-cert", "client-cert-chain", "x-forwarded-client-cert"):
        assert name not in passed.seen_upstream.headers


# In the configuration

TEXT = """\
listeners:
  - bind: 127.0.0.1:8443
    tls: {certificate: a.pem, key: a.key%s}
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes:
  - name: one
    upstream: demo
    plugins:
      - any_of: {plugins: [mtls_auth: {%s}]}
consumers:
  - {name: a, organization: b, certificates: [%s]}
"""


def complaint(ca: str = ", client_ca: ca.pem", options: str = "", certificates: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(TEXT % (ca, options, certificates))
    return str(caught.value)


def test_a_listener_has_to_ask_for_certificates(here: Path) -> None:
    assert complaint(ca="") == (
        "gateway.yaml:9: routes[0].plugins.any_of.plugins.mtls_auth: no listener asks clients for certificates "
        "(set `client_ca` in the `tls` of one)"
    )
    loaded(TEXT % (", client_ca: ca.pem", "", ""))


def test_what_is_wrong_with_its_options_is_said(here: Path) -> None:
    assert "mapping.name: unknown name {path} (there are certificate.fingerprint" in complaint(
        options='mapping: {name: "{path}", organization: x}'
    )
    assert "gateway.yaml:11: consumers[0].certificates[0]: a certificate is known by exactly one of" in complaint(
        certificates="{id: a}"
    )
    assert "exactly one of" in complaint(certificates="{id: a, dns: x, uri: y}")
    assert "not a SHA-256" in complaint(certificates="{id: a, fingerprint: abc}")
    assert 'dns "X" is taken' in complaint(certificates="{id: a, dns: x}, {id: b, dns: X}")


# On the wire


async def test_on_the_wire(stage: Stage, authority: Authority):
    shown = authority.issue("robot", uris=["spiffe://acme/robot"])
    server = authority.issue("localhost", ["localhost"])
    tls = {**server.options, "client_ca": str(authority.path), "client_auth": "optional"}
    async with serving(Target(), stage.make(MtlsAuth), tls=tls) as edge:
        ask_for = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Client-Cert: URI=spiffe://acme/robot\r\n\r\n"
        async with calling_securely(edge, authority.client(shown)) as caller:
            for _ in range(2):
                assert (await caller.ask(ask_for)).startswith(b"HTTP/1.1 200")
        assert edge.target.text.count(b"X-Tallygate-Consumer: by-uri\r\n") == 2
        assert b"Client-Cert" not in edge.target.text
        async with calling_securely(edge, authority.client()) as caller:
            assert (await caller.ask(ask_for)).startswith(b"HTTP/1.1 401")
