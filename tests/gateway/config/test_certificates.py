"""Certificates in the configuration: what cannot be used is refused at load, with the line that names it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.source import ConfigError
from tests.fixtures.certificates import DAY, EXPIRED, NOT_YET, Authority
from tests.fixtures.configuration import loaded

LISTENER = """\
listeners:
  - bind: 127.0.0.1:8443
    tls:
      certificate: a.pem
      key: a.key
{more}
upstreams: {{demo: {{targets: ["http://127.0.0.1:9001"]}}}}
routes: [{{name: all, upstream: demo}}]
"""
UPSTREAM = """\
listeners: [{{bind: 127.0.0.1:8080}}]
upstreams:
  demo:
    targets: ["{target}"]
    tls:
{more}
routes: [{{name: all, upstream: demo}}]
"""


@pytest.fixture
def certificates(here: Path) -> Authority:
    """An authority in the current directory, and a certificate of it: `a.pem` and `a.key`."""
    authority = Authority(here)
    authority.issue("a", ["a.example"])
    return authority


def refused(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, serving=True, **environment)
    return caught.value.errors


def listener(*more: str, **replaced: str) -> str:
    text = LISTENER.format(more="\n".join(f"      {line}" for line in more))
    for old, new in replaced.items():
        text = text.replace(f"{old}: a.", f"{old}: {new}.")
    return text


def upstream(*more: str, target: str = "https://127.0.0.1:9001") -> str:
    return UPSTREAM.format(target=target, more="\n".join(f"      {line}" for line in more))


def test_what_can_be_used_is_no_fault(certificates: Authority) -> None:
    certificates.issue("b", ["b.example"], passphrase="sesame")
    crl = certificates.revoke(certificates.issue("c"))
    config = loaded(listener("client_ca: authority.pem", f"client_crl: {crl}", "min_version: 1.3"), serving=True)
    tls = config.listeners[0].tls
    assert tls is not None
    assert (tls.min_version, tls.client_auth) == ("1.3", "required")
    loaded(listener("passphrase: ${WORD}", certificate="b", key="b"), serving=True, WORD="sesame")
    config = loaded(upstream("ca: authority.pem", "client_certificate: a.pem", "client_key: a.key"), serving=True)
    assert config.upstreams["demo"].tls is not None
    assert config.upstreams["demo"].tls.verify
    assert config.warnings == []


def garbage(path: str) -> Callable[[Authority], object]:
    return lambda authority: Path(path).write_text("-----BEGIN NONSENSE-----\n")


def other_key(authority: Authority) -> None:
    Path("a.key").write_bytes(authority.issue("b").key.read_bytes())


def chain_with_an_expired_member(authority: Authority) -> None:
    old = Authority(Path("."), "old", lifetime=EXPIRED)
    Path("a.pem").write_bytes(Path("a.pem").read_bytes() + old.path.read_bytes())


@pytest.mark.parametrize(
    ("prepare", "text", "fault"),
    [
        (lambda a: Path("a.pem").unlink(), listener(), "4: listeners[0].tls.certificate: cannot be read: No such file"),
        (lambda a: Path("a.key").unlink(), listener(), "5: listeners[0].tls.key: cannot be read: No such file"),
        (garbage("a.pem"), listener(), "4: listeners[0].tls.certificate: holds no certificate in PEM"),
        (garbage("a.key"), listener(), "5: listeners[0].tls.key: holds no private key in PEM"),
        (other_key, listener(), "5: listeners[0].tls.key: does not belong to the first certificate of the chain"),
        (lambda a: a.issue("a", lifetime=EXPIRED), listener(), "4: listeners[0].tls.certificate: it expired on 20"),
        (lambda a: a.issue("a", lifetime=NOT_YET), listener(), "4: listeners[0].tls.certificate: it is not valid befo"),
        (
            chain_with_an_expired_member,
            listener(),
            "4: listeners[0].tls.certificate: certificate 2 of its chain expired on 20",
        ),
        (
            lambda a: a.issue("a", passphrase="sesame"),
            listener(),
            "5: listeners[0].tls.key: is encrypted: give its passphrase as `passphrase`",
        ),
        (
            lambda a: a.issue("a", passphrase="sesame"),
            listener("passphrase: pepper"),
            "6: listeners[0].tls.passphrase: is not the passphrase of the key",
        ),
        (
            lambda a: None,
            listener("passphrase: pepper"),
            "6: listeners[0].tls.passphrase: the key is not encrypted: it needs no passphrase",
        ),
        (lambda a: None, listener("client_ca: no.pem"), "6: listeners[0].tls.client_ca: cannot be read: No such file"),
        (lambda a: None, listener("client_ca: a.key"), "6: listeners[0].tls.client_ca: holds no certificate in PEM"),
        (
            lambda a: Authority(Path("."), "old", lifetime=EXPIRED),
            listener("client_ca: old.pem"),
            "6: listeners[0].tls.client_ca: every certificate in it has expired",
        ),
        (
            lambda a: None,
            listener("client_ca: authority.pem", "client_crl: authority.pem"),
            "7: listeners[0].tls.client_crl: holds no revocation list in PEM",
        ),
        (
            lambda a: a.revoke(lifetime=EXPIRED),
            listener("client_ca: authority.pem", "client_crl: authority.crl"),
            "7: listeners[0].tls.client_crl: it was to be replaced by 20",
        ),
        (lambda a: None, upstream("ca: no.pem"), "6: upstreams.demo.tls.ca: cannot be read: No such file"),
        (
            lambda a: a.issue("b", lifetime=EXPIRED),
            upstream("client_certificate: b.pem", "client_key: b.key"),
            "6: upstreams.demo.tls.client_certificate: it expired on 20",
        ),
        (
            lambda a: a.issue("b"),
            upstream("client_certificate: a.pem", "client_key: b.key"),
            "7: upstreams.demo.tls.client_key: does not belong to the first certificate of the chain",
        ),
        (
            lambda a: a.issue("b", passphrase="sesame"),
            upstream("client_certificate: b.pem", "client_key: b.key"),
            "7: upstreams.demo.tls.client_key: is encrypted: give its passphrase as `client_passphrase`",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    certificates: Authority, prepare: Callable[[Authority], object], text: str, fault: str
) -> None:
    prepare(certificates)
    (line,) = refused(text)
    assert line.startswith(f"gateway.yaml:{fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (listener("certificates: [{certificate: a.pem, key: a.key}]"), "3: listeners[0].tls: needs either"),
        (listener().replace("certificate: a.pem", "min_version: '1.2'"), "3: listeners[0].tls: needs either"),
        (listener().replace("key: a.key", ""), "3: listeners[0].tls: `certificate` and `key` belong together"),
        (listener("client_auth: optional"), "3: listeners[0].tls: clients' certificates are not asked for without"),
        (listener("client_crl: a.crl"), "3: listeners[0].tls: clients' certificates are not asked for without"),
        (listener("min_version: 1.1"), "6: listeners[0].tls.min_version: must be `1.2` or `1.3`"),
        (listener("client_auth: maybe"), "6: listeners[0].tls.client_auth: must be `required` or `optional`"),
        (listener("cifers: x"), '6: listeners[0].tls: unknown key "cifers"'),
        (listener().replace("    tls", "    redirect_to_https: true\n    tls"), "2: listeners[0]: `redirect_to_https`"),
        (upstream("verify: false", "ca: authority.pem"), "5: upstreams.demo.tls: `ca` means nothing with"),
        (upstream("client_key: a.key"), "5: upstreams.demo.tls: `client_certificate` and `client_key` belong togeth"),
        (upstream("verify: true", target="http://127.0.0.1:1"), "5: upstreams.demo.tls: no target speaks TLS (write "),
        (
            listener().replace("    tls:\n", "    redirect_to_https: 70000\n    x:\n").partition("    x:")[0]
            + "upstreams: {demo: {targets: ['http://127.0.0.1:9001']}}\nroutes: [{name: all, upstream: demo}]\n",
            "3: listeners[0].redirect_to_https: must be ",
        ),
    ],
)
def test_options_that_make_no_sense_are_one_line(certificates: Authority, text: str, fault: str) -> None:
    (line,) = refused(text)
    assert line.startswith(f"gateway.yaml:{fault}")


def test_all_is_said_at_once(certificates: Authority) -> None:
    certificates.issue("b", lifetime=EXPIRED)
    text = """\
listeners:
  - bind: 127.0.0.1:8443
    tls:
      certificates:
        - {certificate: a.pem, key: a.key}
        - {certificate: b.pem, key: b.key}
        - certificate: a.pem
          key: nowhere.key
  - bind: 127.0.0.1:8444
    tls: {certificate: b.pem, key: b.key}
drain_timeout: soon
upstreams: {demo: {targets: ["https://127.0.0.1:9001"], tls: {ca: nowhere.pem}}}
routes: [{name: all, upstream: demo}]
"""
    lines = refused(text)
    assert [line.split(": ")[:2] for line in lines] == [
        ["gateway.yaml:6", "listeners[0].tls.certificates[1].certificate"],
        ["gateway.yaml:10", "listeners[1].tls.certificate"],
        ["gateway.yaml:11", "drain_timeout"],
        ["gateway.yaml:12", "upstreams.demo.tls.ca"],
    ]


def test_a_passphrase_is_never_repeated(certificates: Authority) -> None:
    certificates.issue("a", passphrase="sesame")
    Path("word").write_text("hunter2-hunter2")
    (line,) = refused(listener('passphrase: "${file:word}"'))
    assert "hunter2" not in line


def test_what_is_not_wrong_but_should_not_be_is_a_warning(certificates: Authority) -> None:
    certificates.issue("a", lifetime=(-DAY, 3 * DAY))
    Path("a.key").chmod(0o644)
    config = loaded(listener(), serving=True)
    soon, open_to_all = config.warnings
    assert soon.startswith("gateway.yaml:3: certificate a.pem expires on 20")
    assert open_to_all == "gateway.yaml:3: key a.key can be read by everybody on this machine (chmod o-r)"
    (unverified,) = loaded(upstream("verify: false"), serving=True).warnings
    assert unverified.startswith("gateway.yaml:5: certificates of targets are not verified")


def test_a_file_that_is_no_file_is_refused(certificates: Authority) -> None:
    Path("a.key").unlink()
    Path("a.key").mkdir()
    (line,) = refused(listener())
    assert line == "gateway.yaml:5: listeners[0].tls.key: cannot be read: Is a directory"
    Path("a.key").rmdir()
    with Path("a.key").open("wb") as huge:
        os.truncate(huge.fileno(), 2**30)
    (line,) = refused(listener())
    assert line == "gateway.yaml:5: listeners[0].tls.key: is larger than 4MiB"


def test_who_only_bills_needs_no_certificates(certificates: Authority) -> None:
    Path("a.key").unlink()
    config = loaded(listener())
    assert config.listeners[0].tls is not None
    assert config.warnings == []


def test_the_example_fits_together(certificates: Authority) -> None:
    example = (Path(__file__).parents[3] / "config" / "examples" / "tls.yaml").read_text()
    for name in ("books", "papers", "gateway"):
        certificates.issue(name, [f"{name}.example.com"])
    for name in ("partners", "internal"):
        Authority(Path("."), name)
    config = loaded(example.replace("/etc/tallygate/", ""), serving=True)
    assert config.warnings == []
    assert [bool(listener.tls) for listener in config.listeners] == [False, True, True]
