from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.passwords import check_hash, decoy, hash_password, matches, prepared

HASH = "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$qhGYb1MyPEE+aES/CN6NCQDLQrWvmzyI+WAxnX2ZLmI"  # of "pw"


def with_costs(memory: int, iterations: int, lanes: int = 1) -> str:
    return HASH.replace("m=19456,t=2,p=1", f"m={memory},t={iterations},p={lanes}")


def test_a_hash_knows_its_password():
    phc = check_hash(hash_password("grüße"))
    assert matches(phc, prepared("grüße"))
    assert not matches(phc, prepared("gruesse"))
    assert hash_password("grüße") != phc  # salted
    assert matches(check_hash(HASH), b"pw")


def test_keyboards_agree_on_a_character():
    assert prepared("u\u0308") == prepared("\u00fc")


def test_a_decoy_is_nobodys_and_costs_the_same():
    phc = decoy(HASH)
    assert phc.rpartition("$")[0] == HASH.rpartition("$")[0]
    assert check_hash(phc)
    assert not matches(phc, b"pw")
    assert check_hash(decoy()).rpartition("$")[0].startswith(hash_password("x").rsplit("$", 2)[0])
    with pytest.raises(ValueError, match="not an Argon2id hash"):
        decoy("pw")


@pytest.mark.parametrize("costs", [(7168, 5), (9216, 4), (12288, 3), (19456, 2), (47104, 1), (65536, 3, 4)])
def test_what_is_recommended_is_taken(costs):
    """OWASP's five, and the second of RFC 9106 §4."""
    assert check_hash(with_costs(*costs))


@pytest.mark.parametrize(
    ("phc", "said"),
    [
        ("", "not an Argon2id hash"),
        ("pw", "not an Argon2id hash"),
        (HASH.replace("argon2id", "argon2i"), "not an Argon2id hash"),
        (HASH.replace("v=19", "v=16"), "not an Argon2id hash"),
        (HASH + "\n", "not an Argon2id hash"),
        (HASH[:-1] + "J", "base64"),  # bits that stand for nothing
        (HASH.replace("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc"), None),
        (HASH.replace("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Nj"), "not an Argon2id hash"),  # 7 bytes of salt
        (with_costs(4096, 10), "too cheap"),
        (with_costs(7168, 4), "too cheap"),
        (with_costs(262145, 1), "costs too much"),
        (with_costs(262144, 5), "costs too much"),
        (with_costs(19456, 2, 17), "costs too much"),
        (with_costs(0, 2), "not an Argon2id hash"),
    ],
)
def test_a_hash_is_checked_before_it_is_used(phc, said):
    if said is None:
        assert check_hash(phc) == phc
        return
    with pytest.raises(ValueError, match=said) as caught:
        check_hash(phc)
    assert "MDEy" not in str(caught.value)


@given(st.text(max_size=200))
def test_other_text_is_no_hash(text):
    with pytest.raises(ValueError, match="hash"):
        check_hash(text)
