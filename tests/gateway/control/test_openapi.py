"""The OpenAPI document: it says what there is, and the API does what it says, whatever it is asked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from gateway.control import openapi
from gateway.control.operations import operations
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.control import TOKEN, Client
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import PostgresServer, run_sql
from tests.fixtures.valkey import ValkeyServer

ROOT = Path(__file__).parents[3]
EXAMPLES = 6
"""Requests for each operation; where the API has changed, run it once with a hundred."""

DOCUMENT = openapi.document(operations())
schema = schemathesis.openapi.from_dict(DOCUMENT)


async def test_the_document_that_is_served(client: Client) -> None:
    assert (await client.as_(None).get("/v1/openapi.json")).document == DOCUMENT


def test_every_operation_is_in_it_once() -> None:
    listed = [
        (method.upper(), path, said["operationId"])
        for path, methods in DOCUMENT["paths"].items()
        for method, said in methods.items()
    ]
    assert sorted(listed) == sorted((each.method, each.path, each.identifier) for each in operations())
    assert len({identifier for _, _, identifier in listed}) == len(listed)


def test_whatever_is_described_says_what_it_is() -> None:
    for name, shape in DOCUMENT["components"]["schemas"].items():
        assert shape.get("description") or "enum" in shape, name


@pytest.fixture(scope="module")
def url(
    postgres_server: PostgresServer, valkey_process: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A control plane in a process of its own, with a database of its own."""
    directory = tmp_path_factory.mktemp("control")
    database = postgres_server.fresh_name()
    asyncio.run(run_sql(postgres_server.url(), f"create database {database} template template"))
    port = free_port()
    stores = f'stores: {{redis: "{valkey_process.url}", postgres: "{postgres_server.url(database)}"}}\n'
    (directory / "gateway.yaml").write_text(HEAD + ROUTES + stores + f'control: {{bind: "127.0.0.1:{port}"}}\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TALLYGATE_CONTROL_TOKEN": TOKEN}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "control"], cwd=directory, env=environment, stdout=log, stderr=log
        )
    give_up = time.monotonic() + 20
    while not _answers(port):
        assert process.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < give_up
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(10) == 0
    said = (directory / "log").read_text()
    assert '"level":"error"' not in said, said[-4000:]


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_does_what_it_says(case: Any, url: str) -> None:
    """Requests made of the document, valid and not: no answer that it does not tell of, none that is a bug."""
    answer = case.call(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    case.validate_response(
        answer,
        checks=(
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
            schemathesis.specs.openapi.checks.negative_data_rejection,
        ),
    )
