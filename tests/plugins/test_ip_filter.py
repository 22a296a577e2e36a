from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.ip_filter import IpFilter
from tests.play import Played, Stage, ask


async def come_from(stage: Stage, address: str, **options: Any) -> Played:
    request = ask()
    request.client = address
    return await stage.play(stage.make(IpFilter, **options), request=request)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("fd00::7", 200),
        ("10.66.0.1", 403),
        ("::ffff:10.66.0.1", 403),
        ("192.0.2.1", 403),
        ("2001:db8::1", 403),
        ("", 403),
    ],
)
async def test_only_who_is_allowed_and_not_denied_comes_in(stage: Stage, address: str, status: int):
    played = await come_from(stage, address, allow=["10.0.0.0/8", "fd00::/8"], deny=["10.66.0.0/16"])
    assert played.response.status == status
    assert (played.seen_upstream is None) == (status == 403)


async def test_without_a_list_of_those_allowed_all_but_the_denied_come_in(stage: Stage):
    assert (await come_from(stage, "192.0.2.1", deny=["10.0.0.0/8"])).response.status == 200
    assert (await come_from(stage, "10.0.0.1", deny=["10.0.0.0/8"])).response.status == 403


async def test_a_refusal_does_not_say_who_may_come_in(stage: Stage):
    played = await come_from(stage, "192.0.2.1", allow=["10.0.0.0/8"])
    document = json.loads(played.body)
    assert document["type"].endswith("/address-refused")
    assert "10.0" not in str(document)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs `allow`, `deny` or both"),
        ({"allow": []}, "at least 1 item"),
        ({"allow": ["10.1.0.0/16"], "deny": ["10.0.0.0/9", "10.128.0.0/9"]}, "10.1.0.0/16 is allowed in vain"),
        ({"deny": ["10.0.0.1/8"]}, "not an address or network"),
    ],
)
def test_lists_that_make_no_sense_are_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(IpFilter, **options)
