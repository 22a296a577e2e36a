"""Mirror: its share, and never more at once than its bound."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import ValidationError

from gateway.options import FROM_FILE
from gateway.upstream.mirror import Mirror, MirrorOptions


@pytest.mark.parametrize("share", ["0%", "10%", "100%"])
def test_its_share_is_mirrored(share: str):
    options = MirrorOptions.model_validate({"upstream": "next", "share": share}, context=FROM_FILE)
    mirror = Mirror(options, Random(1))
    mirrored = 0
    for _ in range(5000):
        if mirror.begin():
            mirrored += 1
            mirror.end()
    assert mirrored / 5000 == pytest.approx(options.share, abs=0.015)
    assert mirror.left_out == 0


def test_a_slow_mirror_is_left_out_until_it_has_caught_up():
    mirror = Mirror(MirrorOptions(upstream="next", max_in_flight=3), Random(1))
    assert [mirror.begin() for _ in range(5)] == [True, True, True, False, False]
    assert mirror.left_out == 2
    mirror.end()
    assert mirror.begin()


@pytest.mark.parametrize("share", ["101%", 0.5])
def test_impossible_shares_are_refused(share: object):
    with pytest.raises(ValidationError):
        MirrorOptions.model_validate({"upstream": "next", "share": share}, context=FROM_FILE)
