"""Several authorities that are believed: each may say what it likes, and nobody is taken for another one's caller."""

from __future__ import annotations

from pathlib import Path
from ssl import PEM_cert_to_DER_cert
from typing import Any

import pytest

from gateway.config.composition import ConfigError
from gateway.consumers import ConsumerOptions
from gateway.exchange import Request
from gateway.plugin import AnyPlugin
from gateway.tls.certificate import ClientCertificate
from plugins.anonymous import Anonymous
from plugins.any_of import AnyOf
from plugins.mtls_auth import MtlsAuth
from tests.fixtures.certificates import Authority, Issued, authority
from tests.fixtures.configuration import here, loaded
from tests.fixtures.conversation import serving
from tests.fixtures.secure_conversation import calling_securely
from tests.fixtures.wire import Target
from tests.play import Stage, ask

__all__ = ["authority", "here"]

DNS = "robot.acme.example"


@pytest.fixture
def impostor(tmp_path: Path) -> Authority:
    """It calls itself as `authority` does, and is believed as well."""
    (tmp_path / "other").mkdir()
    return Authority(tmp_path / "other")


def showing(issued: Issued) -> Request:
    request = ask()
    request.certificate = ClientCertificate.read(PEM_cert_to_DER_cert(issued.certificate.read_text()))
    return request


def mapped(stage: Stage, organization: str, *issuers: Authority) -> AnyPlugin:
    mapping = {"name": "{certificate.dns}", "organization": organization}
    return stage.make(MtlsAuth, mapping=mapping, issuers=[issuer.path.read_text() for issuer in issuers])


async def organization(stage: Stage, plugin: AnyPlugin, request: Request) -> str | None:
    played = await stage.play(plugin, request=request)
    assert played.response.status == (200 if played.exchange.consumer else 401)
    return played.exchange.consumer and played.exchange.consumer.organization


async def test_only_who_is_signed_by_the_pinned_one_is_let_in(stage: Stage, authority: Authority, impostor: Authority):
    ours, theirs = authority.issue("robot", [DNS]), impostor.issue("robot", [DNS])
    assert await organization(stage, mapped(stage, "acme"), showing(theirs)) == "acme"  # nothing is pinned
    plugin = mapped(stage, "acme", authority)
    for _ in range(2):
        assert await organization(stage, plugin, showing(ours)) == "acme"
        assert await organization(stage, plugin, showing(theirs)) is None
    both = mapped(stage, "acme", impostor, authority)
    assert await organization(stage, both, showing(theirs)) == "acme"


async def test_each_authority_has_callers_of_its_own(stage: Stage, authority: Authority, impostor: Authority):
    plugin = stage.make(AnyOf, plugins=[{"mtls_auth": {}}])
    guest = stage.make(Anonymous, organization="public")
    plugin.parts = (mapped(stage, "acme", authority), mapped(stage, "globex", impostor), guest)
    assert await organization(stage, plugin, showing(authority.issue("robot", [DNS]))) == "acme"
    assert await organization(stage, plugin, showing(impostor.issue("robot", [DNS]))) == "globex"
    assert await organization(stage, plugin, ask()) == "public"
    plugin.parts = (mapped(stage, "acme", authority), guest)
    assert await organization(stage, plugin, showing(impostor.issue("robot", [DNS]))) is None


async def test_attributes_name_the_issuer(stage: Stage, authority: Authority):
    played = await stage.play(mapped(stage, "acme"), request=showing(authority.issue("robot", [DNS])))
    assert played.exchange.consumer.attributes["certificate.issuer"] == "CN=authority"
    by_issuer = stage.make(MtlsAuth, mapping={"name": "{certificate.dns}", "organization": "{certificate.issuer}"})
    assert await organization(stage, by_issuer, showing(authority.issue("robot", [DNS]))) == "CN=authority"


def known(issuer: Authority | None) -> ConsumerOptions:
    certificate = {"id": "c", "dns": DNS, "issuer": issuer and issuer.path.read_text()}
    return ConsumerOptions.model_validate({"name": "robot", "organization": "acme", "certificates": [certificate]})


async def test_a_known_name_counts_from_its_own_authority_alone(
    tmp_path: Path, authority: Authority, impostor: Authority
):
    for pinned, found in ((None, "robot"), (authority, "partner")):
        stage = Stage(tmp_path / "journal", consumers=[known(pinned)])
        mapping = {"name": "partner", "organization": "partners"}
        plugin = stage.make(MtlsAuth, mapping=mapping)
        theirs, ours = showing(impostor.issue("robot", [DNS])), showing(authority.issue("robot", [DNS]))
        assert (await stage.play(plugin, request=theirs)).exchange.consumer.name == found
        assert (await stage.play(plugin, request=ours)).exchange.consumer.name == "robot"
        assert await organization(stage, stage.make(MtlsAuth), ours) == "acme"
        assert await organization(stage, stage.make(MtlsAuth), theirs) == (None if pinned else "acme")
        await stage.close()


async def test_on_the_wire(tmp_path: Path, authority: Authority):
    stage = Stage(tmp_path / "journal", consumers=[known(authority)])
    other, believed = Authority(tmp_path, "other"), tmp_path / "believed.pem"
    believed.write_bytes(authority.path.read_bytes() + other.path.read_bytes())
    server = authority.issue("localhost", ["localhost"])
    tls: dict[str, Any] = {**server.options, "client_ca": str(believed)}
    async with serving(Target(), stage.make(MtlsAuth), tls=tls) as edge:
        for issuer, status in ((authority, 200), (other, 401), (authority, 200)):
            shown = authority.client(issuer.issue("robot", [DNS], file=f"shown-{status}"))
            async with calling_securely(edge, shown) as caller:
                for _ in range(2):
                    assert (await caller.ask()).startswith(f"HTTP/1.1 {status}".encode())
    await stage.close()


TEXT = """\
listeners: [{bind: "127.0.0.1:8443", tls: {certificate: a.pem, key: a.key, client_ca: ca.pem}}]
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes:
  - name: one
    upstream: demo
    plugins:
      - mtls_auth: {issuers: [%s]}
consumers:
  - {name: a, organization: b, certificates: [{id: c, dns: d, issuer: %s}]}
"""


def test_what_is_no_certificate_is_said_with_its_line(here: Path, authority: Authority) -> None:
    pem = f'"${{file:{authority.path}}}"'
    loaded(TEXT % (pem, pem))
    for text, line in ((TEXT % ("junk", pem), "gateway.yaml:7: "), (TEXT % (pem, "junk"), "gateway.yaml:9: ")):
        with pytest.raises(ConfigError, match="not certificates in PEM that can be read") as caught:
            loaded(text)
        assert str(caught.value).startswith(line)
