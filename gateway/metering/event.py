"""The usage event: what is written to the journal, travels in frames and becomes a row. Shared by edge and billing.

Everything here is a wire format: fields are only ever added at the end, with a default, under a new version.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

VERSION: Final = 1

Kind: TypeAlias = Literal["usage", "cancel", "amend"]
Outcome: TypeAlias = Literal["ok", "upstream_error", "client_gone", "estimated"]


class UsageEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One use of a metered route. Times are microseconds since the epoch, UTC; quantities are integers per meter.

    `event_id` is the exchange's UUIDv7. `admitted_at` is when the request was let in, `occurred_at` the end of use:
    it decides the billing period. `amend` adds its quantities to those of the event `ref` names, `cancel` takes that
    event back; nothing is ever updated. Node, boot, segment and number are not part of the event: they say where it
    was written, not what it says, and so do not count when two events are compared.
    """

    version: int
    event_id: bytes
    kind: Kind
    admitted_at: int
    occurred_at: int
    organization: str
    subscription: str
    plan_version: str
    key: str
    route: str
    upstream: str
    provider: str
    model: str
    status: int
    outcome: Outcome
    quantities: dict[str, int]
    ref: bytes | None = None


class Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Records of one segment and one shard: the value of field `f` of an entry in stream `usage.{shard}`.

    `numbers[i]` is the place of `events[i]` (a packed UsageEvent) among the final records of segment `segment`,
    from 0 and without gaps over all shards. `segment` is `node/boot/sequence`.
    """

    version: int
    segment: str
    numbers: list[int]
    events: list[bytes]


encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(UsageEvent).decode
encode_frame = msgspec.msgpack.Encoder().encode
decode_frame = msgspec.msgpack.Decoder(Frame).decode


@lru_cache(maxsize=4096)
def shard_of(organization: str, shards: int) -> int:
    """The shard that all usage of an organization goes to: CRC-32 of its name, modulo the number of shards."""
    return zlib.crc32(organization.encode()) % shards
