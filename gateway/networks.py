"""Networks: whether an address lies in any of many networks, at the price of a look-up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

MOST_REMEMBERED: Final = 4096
"""Addresses whose answer is remembered; when there are so many, all are forgotten."""
_IPV4: Final = 1 << 128
"""IPv4 addresses are numbered from here on, behind those of IPv6."""


def _network(value: Any) -> Any:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        return ip_network(value if isinstance(value, str) else "")  # it would take a number for an address as well
    except ValueError:
        raise ValueError(f"not an address or network: {value!r} (write 10.0.0.0/8, 192.0.2.7 or fd00::/8)") from None


Network: TypeAlias = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network), WithJsonSchema({"type": "string"})]
"""An option: a network, or an address that stands for itself."""


class Networks:
    """A set of networks, to be asked about addresses: `"192.0.2.7" in networks`. What is no address is in none.

    They are kept as ranges of numbers in ascending order that do not overlap. So an address is found by bisection,
    however many networks there are, and what was found is remembered. An IPv4 address in the form of an IPv6 one
    (`::ffff:192.0.2.7`, RFC 4291 §2.5.5.2) is the IPv4 address.
    """

    __slots__ = ("_firsts", "_known", "_lasts")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._known: dict[str, bool] = {}
        for first, last in sorted(map(_range, networks)):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            known = self._known[address] = self._find(address)
        return known

    def cover(self, network: IPv4Network | IPv6Network) -> bool:
        """Whether every address of this network is in."""
        return self._hold(*_range(network))

    def _find(self, address: str) -> bool:
        try:
            number = _number(ip_address(address))
        except ValueError:
            return False
        return self._hold(number, number)

    def _hold(self, first: int, last: int) -> bool:
        place = bisect_right(self._firsts, first) - 1
        return place >= 0 and last <= self._lasts[place]


def subnet(address: str) -> str:
    """What one customer is usually given: an IPv4 address, or the /64 network of an IPv6 address (RFC 6177).

    What is no address stands for itself.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def _range(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    """The numbers of a network's first and last address."""
    lowest = network.network_address
    # A network of IPv6 that is larger than all of IPv4 only begins, or ends, like an IPv4 address.
    first = int(lowest) if network.version == 6 and network.prefixlen < 96 else _number(lowest)
    return first, first + network.num_addresses - 1


def _number(address: IPv4Address | IPv6Address) -> int:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return int(address)
        address = address.ipv4_mapped
    return int(address) + _IPV4
