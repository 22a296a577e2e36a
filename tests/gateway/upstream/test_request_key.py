"""Request keys: what makes requests belong together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.upstream.request_key import RequestKeyOptions, client_address
from tests.fixtures.targets import request_of


def test_a_key_is_read_where_the_options_say():
    request = request_of(identity=b"X-Tallygate-Consumer: bob\r\n", x_user="ann", cookie="a=1; sid=s1")
    assert RequestKeyOptions(header="X-User").reader()(request) == b"ann"
    assert RequestKeyOptions(cookie="sid").reader()(request) == b"s1"
    assert RequestKeyOptions(consumer=True).reader()(request) == b"X-Tallygate-Consumer: bob\r\n"


@pytest.mark.parametrize("options", [{"header": "x-user"}, {"cookie": "sid"}, {"consumer": True}])
def test_there_may_be_no_key(options: dict[str, object]):
    read = RequestKeyOptions.model_validate(options).reader()
    assert read(request_of()) is None
    assert read(request_of(x_user="", cookie="sid=")) is None


@pytest.mark.parametrize("options", [{}, {"header": "a", "cookie": "b"}, {"header": "a", "consumer": True}])
def test_one_key_is_needed(options: dict[str, object]):
    with pytest.raises(ValidationError, match="exactly one key"):
        RequestKeyOptions.model_validate(options)


@pytest.mark.parametrize("options", [{"header": "x user"}, {"cookie": "a=b"}, {"header": ""}])
def test_impossible_names_are_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        RequestKeyOptions.model_validate(options)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("unknown", "unknown", True),
    ],
)
def test_an_address_stands_for_its_client(one: str, other: str, same: bool):
    assert (client_address(request_of(one)) == client_address(request_of(other))) is same


def test_without_an_address_there_is_no_key():
    assert client_address(request_of()) is None
