from __future__ import annotations

from typing import Any

import pytest

from gateway.exchange import Response
from plugins.hsts import Hsts
from tests.play import Played, Stage, ask


async def over(stage: Stage, scheme: str, **options: Any) -> Played:
    request = ask()
    request.scheme = scheme
    answer = Response(200, {"strict-transport-security": "max-age=1"} if scheme == "https" else {})
    return await stage.play(stage.make(Hsts, **options), request=request, answer=answer)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, "max-age=31536000"),
        ({"max_age": "0s"}, "max-age=0"),
        ({"include_subdomains": True}, "max-age=31536000; includeSubDomains"),
        (
            {"max_age": "730d", "include_subdomains": True, "preload": True},
            "max-age=63072000; includeSubDomains; preload",
        ),
    ],
)
async def test_it_is_said_once_over_https(stage: Stage, options: dict[str, Any], value: str):
    played = await over(stage, "https", **options)
    assert played.response.headers.getall("strict-transport-security") == [value]


async def test_over_http_it_is_not_said(stage: Stage):
    assert "strict-transport-security" not in (await over(stage, "http")).response.headers


@pytest.mark.parametrize(
    "options", [{"preload": True}, {"preload": True, "include_subdomains": True, "max_age": "30d"}]
)
def test_a_preload_that_lists_would_not_take_is_refused(stage: Stage, options: dict[str, Any]):
    with pytest.raises(ValueError, match="`preload` needs"):
        stage.make(Hsts, **options)
