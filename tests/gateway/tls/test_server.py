"""TLS of a listener: which certificate is shown, what is agreed on, which clients are believed."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.exchange import Exchange
from gateway.tls.certificate import ClientCertificate
from tests.fixtures.certificates import DAY, EXPIRED, Authority
from tests.fixtures.conversation import calling, eventually, serving
from tests.fixtures.secure_conversation import calling_securely, counted
from tests.fixtures.wire import Alone, Edge, Target

FAILURES = "tallygate_tls_handshake_failures_total"


def failures(edge: Edge, reason: str) -> float:
    return counted(edge, FAILURES, bind="127.0.0.1:1", reason=reason)


async def test_a_request_is_served_and_came_by_https(authority: Authority) -> None:
    target = Target()
    async with serving(target, tls=authority.issue("a", ["localhost"]).options) as edge:
        async with calling_securely(edge, authority.client()) as client:
            for _ in range(3):
                assert (await client.ask()).endswith(b"ok")
            assert client.ssl.version() == "TLSv1.3"
        fields = target.text.split(b"\r\n")
        assert b"X-Forwarded-Proto: https" in fields
        assert b"X-Forwarded-Port: 443" in fields
        assert b"Forwarded: for=127.0.0.1;host=localhost;proto=https" in fields
        assert counted(edge, "tallygate_tls_handshakes_total", bind="127.0.0.1:1", version="TLSv1.3") == 1


# What is agreed on


def offering(authority: Authority, **limits: ssl.TLSVersion | str) -> ssl.SSLContext:
    """A client that can do less than it might."""
    context = authority.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, value in limits.items():
        context.set_ciphers(value) if isinstance(value, str) else setattr(context, name, value)
    return context


async def test_of_tls_1_2_only_ciphers_with_forward_secrecy_and_aead_are_left(authority: Authority) -> None:
    v1_2 = ssl.TLSVersion.TLSv1_2
    async with serving(Target(), tls=authority.issue("a", ["localhost"]).options) as edge:
        async with calling_securely(edge, offering(authority, maximum_version=v1_2)) as client:
            assert client.ssl.version() == "TLSv1.2"
            assert client.ssl.cipher()[0] in (
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-CHACHA20-POLY1305",
            )
            assert client.ssl.compression() is None
            assert (await client.ask()).endswith(b"ok")
        for ciphers in ("ECDHE-ECDSA-AES256-SHA384", "AES256-GCM-SHA384", "DHE-RSA-AES256-GCM-SHA384"):
            with pytest.raises(ssl.SSLError, match="handshake failure"):
                async with calling_securely(edge, offering(authority, maximum_version=v1_2, ciphers=ciphers)):
                    pass
        assert failures(edge, "cipher") == 3


@pytest.mark.parametrize(
    ("oldest", "offered", "spoken"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_1, None),
        ("1.2", ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        ("1.3", ssl.TLSVersion.TLSv1_2, None),
        ("1.3", ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_a_client_that_is_too_old_is_told_so(
    authority: Authority, oldest: str, offered: ssl.TLSVersion, spoken: str | None
) -> None:
    context = offering(authority, minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED, maximum_version=offered)
    options = {**authority.issue("a", ["localhost"]).options, "min_version": oldest}
    async with serving(Target(), tls=options) as edge:
        if spoken is None:
            with pytest.raises(ssl.SSLError, match="alert protocol version"):
                async with calling_securely(edge, context):
                    pass
            assert failures(edge, "version") == 1
        else:
            async with calling_securely(edge, context) as client:
                assert client.ssl.version() == spoken


@pytest.mark.parametrize(("offered", "agreed"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
async def test_http_1_1_is_all_that_is_agreed_on(authority: Authority, offered: list[str], agreed: str | None) -> None:
    context = authority.client()
    if offered:
        context.set_alpn_protocols(offered)
    tls = authority.issue("a", ["localhost"]).options
    async with serving(Target(), tls=tls) as edge, calling_securely(edge, context) as client:
        assert client.ssl.selected_alpn_protocol() == agreed


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_resumed(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.client()
    context.maximum_version = version
    async with serving(Target(), tls=authority.issue("a", ["localhost"]).options) as edge:
        async with calling_securely(edge, context) as client:
            await client.ask()
            assert not client.ssl.session_reused
        async with calling_securely(edge, context, session=client.ssl.session) as client:
            assert (await client.ask()).endswith(b"ok")
            assert client.ssl.session_reused


# Which certificate is shown


async def shown(edge: Edge, authority: Authority, name: str | None) -> Sequence[str]:
    """The DNS names of the certificate that a client gets who asks for `name`."""
    context = authority.client()
    context.check_hostname = False
    async with calling_securely(edge, context, name) as client:
        assert (await client.ask()).endswith(b"ok")
        names = client.ssl.getpeercert()["subjectAltName"]  # type: ignore[index]
        return [value for _, value in names]


async def test_the_name_that_a_client_asks_for_picks_the_certificate(authority: Authority) -> None:
    certificates = [
        authority.issue("first", ["first.example", "exact.wild.example"]),
        authority.issue("second", ["second.example", "both.example"]),
        authority.issue("wild", ["*.wild.example", "both.example", "other.wild.example"]),
    ]
    async with serving(Target(), tls={"certificates": [each.options for each in certificates]}) as edge:
        for name, first in {
            "first.example": "first.example",
            "second.example": "second.example",
            "SECOND.example": "second.example",
            "a.wild.example": "*.wild.example",
            "exact.wild.example": "first.example",  # exact, though the wildcard fits as well
            "other.wild.example": "*.wild.example",
            "both.example": "second.example",  # the first of those that have it
            "a.b.wild.example": "first.example",  # `*` is one label
            "wild.example": "first.example",
            "nobody.example": "first.example",
            None: "first.example",
        }.items():
            assert (await shown(edge, authority, name))[0] == first, name


async def test_a_name_s_certificate_is_as_strict_as_the_first(authority: Authority, tmp_path: Path) -> None:
    """The client's certificate is asked for, and versions are refused, whichever certificate is shown."""
    certificates = [authority.issue("a", ["a.example"]), authority.issue("b", ["b.example"])]
    options = {
        "certificates": [each.options for each in certificates],
        "client_ca": str(authority.path),
        "min_version": "1.3",
    }
    async with serving(Target(), tls=options) as edge:
        for name in ("a.example", "b.example"):
            with pytest.raises(ssl.SSLError, match="certificate required"):
                async with calling_securely(edge, authority.client(), name) as client:
                    await client.ask()
            v1_2 = offering(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
            with pytest.raises(ssl.SSLError, match="protocol version"):
                async with calling_securely(edge, v1_2, name):
                    pass
            async with calling_securely(edge, authority.client(certificates[0]), name) as client:
                assert (await client.ask()).endswith(b"ok")
                assert client.ssl.selected_alpn_protocol() is None
        assert failures(edge, "no_certificate") == 2


# Which clients are believed


class Seen(Alone):
    """Keeps what each request says about its client."""

    def __init__(self) -> None:
        self.certificates: list[ClientCertificate | None] = []

    def on_request(self, exchange: Exchange) -> None:
        self.certificates.append(exchange.request.certificate)


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    """Another authority: of the clients."""
    return Authority(tmp_path, "clients")


def asking(authority: Authority, clients: Authority, **more: str) -> dict[str, str]:
    return {**authority.issue("server", ["localhost"]).options, "client_ca": str(clients.path), **more}


async def test_a_request_knows_the_certificate_of_its_client(authority: Authority, clients: Authority) -> None:
    robot = clients.issue(
        "robot", ["robot.example"], uris=["spiffe://example/robot", "https://a.example"], emails=["robot@example.com"]
    )
    seen = Seen()
    tls = asking(authority, clients)
    async with serving(Target(), seen, tls=tls) as edge, calling_securely(edge, authority.client(robot)) as client:
        for _ in range(3):
            assert (await client.ask()).endswith(b"ok")
    first = seen.certificates[0]
    assert first is not None
    assert first.subject == "CN=robot,O=Acme"
    assert first.dns_names == ("robot.example",)
    assert first.uris == ("spiffe://example/robot", "https://a.example")
    assert first.emails == ("robot@example.com",)
    der = ssl.PEM_cert_to_DER_cert(robot.certificate.read_text())
    assert first == ClientCertificate.read(der)
    assert all(certificate is first for certificate in seen.certificates), "read once for a connection"


async def refused(edge: Edge, context: ssl.SSLContext, alert: str) -> None:
    with pytest.raises(ssl.SSLError, match=alert):
        async with calling_securely(edge, context) as client:
            await client.ask()  # with TLS 1.3 a client hears of it only now


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("auth", ["required", "optional"])
async def test_a_certificate_that_is_not_valid_is_refused_with_the_reason(
    authority: Authority, clients: Authority, auth: str, version: ssl.TLSVersion
) -> None:
    revoked, stranger = clients.issue("revoked"), authority.issue("stranger")
    options = asking(authority, clients, client_auth=auth, client_crl=str(clients.revoke(revoked)))
    bad = {
        "certificate_expired": (clients.issue("expired", lifetime=EXPIRED), "certificate expired"),
        "certificate_revoked": (revoked, "certificate revoked"),
        "certificate_unknown": (stranger, "unknown ca"),
        "certificate_invalid": (clients.issue("early", lifetime=(DAY, 2 * DAY)), "bad certificate"),
    }
    target = Target()
    async with serving(target, tls=options) as edge:
        for reason, (shown, alert) in bad.items():
            context = authority.client(shown)
            context.maximum_version = version
            await refused(edge, context, alert)
            assert await eventually(lambda reason=reason: failures(edge, reason) == 1), reason
        assert target.heard == []
        good = authority.client(clients.issue("good"))
        good.maximum_version = version
        async with calling_securely(edge, good) as client:
            assert (await client.ask()).endswith(b"ok")


async def test_without_a_certificate_a_client_is_refused_where_one_is_required(
    authority: Authority, clients: Authority
) -> None:
    async with serving(Target(), tls=asking(authority, clients)) as edge:
        await refused(edge, authority.client(), "certificate required")
        assert failures(edge, "no_certificate") == 1


async def test_without_a_certificate_a_client_is_served_where_it_is_optional(
    authority: Authority, clients: Authority
) -> None:
    seen = Seen()
    async with serving(Target(), seen, tls=asking(authority, clients, client_auth="optional")) as edge:
        async with calling_securely(edge, authority.client()) as client:
            assert (await client.ask()).endswith(b"ok")
        assert seen.certificates == [None]


async def test_a_session_does_not_outlive_the_certificate_that_began_it(
    authority: Authority, clients: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL takes a resumed session's certificate for good, whatever the time."""
    context = authority.client(clients.issue("robot", lifetime=(-DAY, DAY)))
    async with serving(Target(), tls=asking(authority, clients)) as edge:
        async with calling_securely(edge, context) as client:
            await client.ask()
        assert edge.listener.tls is not None
        clock = edge.listener.tls.clock
        a_week_later = clock.nanos() + 7 * 86400 * 10**9
        monkeypatch.setattr(clock, "nanos", lambda: a_week_later)
        with pytest.raises(ConnectionError):
            async with calling_securely(edge, context, session=client.ssl.session) as client:
                await client.ask()
        assert client.ssl.session_reused
        assert failures(edge, "certificate_expired") == 1


async def test_connections_count_before_their_handshake(authority: Authority) -> None:
    options = authority.issue("a", ["localhost"]).options
    async with serving(Target(), tls=options, max_connections=1) as edge, calling(edge) as silent:
        assert await silent.meanwhile(0.05) == b""
        async with calling(edge) as second:
            assert await second.rest() in (b"<end>", b"<reset>")
        silent.close()
        assert await eventually(lambda: not edge.listener._connections)
        async with calling_securely(edge, authority.client()) as client:
            assert (await client.ask()).endswith(b"ok")
        refused = counted(edge, "tallygate_connections_refused_total", bind="127.0.0.1:1")
        assert (refused, failures(edge, "closed")) == (1, 1), "who was not let in has not failed in TLS"
