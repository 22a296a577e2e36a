"""A node whose control plane speaks HTTPS: one configuration for all that starts and for the commands that ask it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.fixtures.certificates import Authority, authority
from tests.fixtures.ports import free_port
from tests.journeys.system import System

__all__ = ["authority"]


async def test_up_with_https_for_the_control_plane(tmp_path: Path, authority: Authority) -> None:
    """It is known to be ready even where it answers nobody without a certificate."""
    shown, ours = authority.issue("control", addresses=["127.0.0.1"]), authority.issue("operator")
    port = free_port()
    system = System(tmp_path)
    config = yaml.safe_load(system.config.read_text())
    config["control"] = {
        "bind": f"127.0.0.1:{port}",
        "tls": {**shown.options, "client_ca": str(authority.path), "client_auth": "required"},
        "client": {"ca": str(authority.path), **ours.options},
    }
    system.config.write_text(yaml.safe_dump(config))
    await system.start()
    try:
        code, said = await system.tallygate("org", "add", "shop")
        assert (code, said.splitlines()[0].split()) == (0, ["name", "shop"])
        assert f"https://127.0.0.1:{port}" in system.log()
    finally:
        await system.stop()
