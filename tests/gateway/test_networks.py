from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.networks import MOST_REMEMBERED, Network, Networks, subnet


def networks(*texts: str) -> Networks:
    return Networks(map(ip_network, texts))


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("9.255.255.255", False),
        ("::ffff:10.1.2.3", True),
        ("192.168.7.7", True),
        ("fd00::1", True),
        ("fe00::1", False),
        ("::1", True),
        ("::ffff:192.0.2.1", False),
        ("", False),
        ("10.0.0.1:80", False),
        ("unix", False),
    ],
)
def test_an_address_is_in_or_not(address: str, inside: bool):
    # The last one ends where IPv4 in the form of IPv6 ends, and yet holds none of it.
    found = networks("10.0.0.0/8", "10.1.0.0/16", "::ffff:192.168.0.0/112", "fd00::/8", "::/80")
    assert (address in found) is inside
    assert (address in found) is inside, "remembered as it was found"


def test_all_of_one_family_is_nothing_of_the_other():
    assert "192.0.2.1" not in networks("::/0")
    assert "::1" not in networks("0.0.0.0/0")


def test_a_network_is_covered_by_several():
    found = networks("10.0.0.0/9", "10.128.0.0/9")
    assert found.cover(ip_network("10.0.0.0/8"))
    assert not found.cover(ip_network("10.0.0.0/7"))


V4 = st.builds(
    lambda bits, length: IPv4Network((bits, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)
V6 = st.builds(
    lambda bits, length: IPv6Network((bits, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
)


@given(st.lists(V4 | V6, max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
def test_bisection_finds_what_looking_at_each_finds(listed, small: int, large: int):
    found = Networks(listed)
    edges = [edge for network in listed for edge in (network[0], network[-1])]
    for address in [IPv4Address(small), IPv6Address(large), *edges]:
        if address.version == 6 and address.ipv4_mapped is not None:
            continue
        assert (str(address) in found) is any(address in network for network in listed)


def test_what_is_remembered_is_bounded():
    found = networks("10.0.0.0/8")
    for number in range(MOST_REMEMBERED + 10):
        assert str(IPv4Address(number)) not in found
    assert len(found._known) <= MOST_REMEMBERED


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0.0/33", "x", 1, None, ""])
def test_what_is_no_network_is_refused(value: object):
    with pytest.raises(ValueError, match="not an address or network"):
        TypeAdapter(Network).validate_python(value)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_what_one_customer_is_usually_given(address: str, network: str):
    assert subnet(address) == network
