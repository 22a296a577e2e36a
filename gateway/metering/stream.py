"""Stream: what the edge and the billing worker must agree on: the names of things in Redis, and who writes what there.

| key | type | written by | says |
|---|---|---|---|
| `usage.{shard}` | stream | edge | frames of usage events; group `billing` reads them |
| `usage.accounted.{node}` | hash | worker | `boot/sequence/shard` → how many records of that segment the books hold |
| `usage.nodes` | hash | supervisor | node → its heartbeat, JSON |

All of it may vanish at any time: frames are sent again from the journal, counts published again from PostgreSQL when
they are, heartbeats repeated every second. The braces keep the keys of one shard, or node, together in a cluster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from gateway.stores.redis import Redis, StreamState

GROUP: Final = "billing"
"""The consumer group of every usage stream."""

NODES: Final = "usage.nodes"


class Heartbeat(msgspec.Struct, frozen=True):
    """What a node says of its journal, all processes together, living and dead. Times are microseconds, UTC.

    No event that is not yet accounted for occurred before `oldest_unaccounted_at`, or, where that is None, before
    `at`, the time of the heartbeat. `segments` and `bytes` are what the journal holds on disk.
    """

    oldest_unaccounted_at: int | None
    at: int
    segments: int
    bytes: int


_encode_heartbeat: Final = msgspec.json.Encoder().encode
_decode_heartbeat: Final = msgspec.json.Decoder(Heartbeat).decode


def stream_name(shard: int) -> str:
    """The Redis key of a shard's stream."""
    return f"usage.{{{shard}}}"


def segment_name(node: str, boot: str, sequence: int) -> str:
    """What a segment is called in frames and in the books: `node/boot/sequence`."""
    return f"{node}/{boot}/{sequence:08d}"


def split_name(segment: str) -> tuple[str, str]:
    """A segment's node, and the rest of its name: `boot/sequence`."""
    node, _, rest = segment.partition("/")
    return node, rest


def accounted_key(node: str) -> str:
    """The Redis key of the counts that the worker publishes for a node."""
    return f"usage.accounted.{{{node}}}"


async def publish_counts(redis: Redis, counts: Mapping[tuple[str, int], int]) -> None:
    """Tells the edges, per (segment, shard), how many records the books hold in all. Raises StoreUnavailable."""
    nodes: dict[str, dict[str, str | bytes | int]] = {}
    for (segment, shard), count in counts.items():
        node, rest = split_name(segment)
        nodes.setdefault(node, {})[f"{rest}/{shard}"] = count
    for node, fields in nodes.items():
        await redis.hash_write(accounted_key(node), fields)


async def read_counts(redis: Redis, node: str, segments: Sequence[tuple[str, Collection[int]]]) -> list[int]:
    """How many records the books hold of each (segment, its shards), as last published. Raises StoreUnavailable."""
    fields = [f"{split_name(segment)[1]}/{shard}" for segment, shards in segments for shard in shards]
    values = iter(await redis.hash_values(accounted_key(node), fields))
    return [sum(int(next(values) or 0) for _ in shards) for _, shards in segments]


async def forget_counts(redis: Redis, node: str, segments: Sequence[tuple[str, Collection[int]]]) -> None:
    """Removes the counts of segments that are deleted. Raises StoreUnavailable."""
    fields = [f"{split_name(segment)[1]}/{shard}" for segment, shards in segments for shard in shards]
    await redis.hash_delete(accounted_key(node), fields)


async def sweep_counts(redis: Redis, node: str, on_disk: Collection[str]) -> None:
    """Removes the counts of segments that are not among `on_disk` (`boot/sequence`): a late replay may publish counts
    of a segment that is deleted. Raises StoreUnavailable.
    """
    key = accounted_key(node)
    stale = [field for field in await redis.hash_read(key) if field.rpartition("/")[0] not in on_disk]
    await redis.hash_delete(key, stale)


async def write_heartbeat(redis: Redis, node: str, heartbeat: Heartbeat) -> None:
    """Publishes a node's heartbeat. Raises StoreUnavailable."""
    await redis.hash_write(NODES, {node: _encode_heartbeat(heartbeat)})


async def read_nodes(redis: Redis) -> dict[str, Heartbeat]:
    """The last heartbeat of each node. Raises StoreUnavailable; a heartbeat it cannot read counts as none."""
    heartbeats = {}
    for node, text in (await redis.hash_read(NODES)).items():
        try:
            heartbeats[node] = _decode_heartbeat(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return heartbeats


def may_hold(state: StreamState, identifier: str) -> bool:
    """Whether an entry with this id, or one appended before it, may still be waiting in a stream of this state.

    If not, what was appended up to that id is accounted for or lost, and sending it again is the cure. While it may
    be waiting, sending it again would only make the stream longer for a worker that is behind.
    """
    order = _order(identifier)
    if state.pending and _order(state.oldest_pending) <= order:
        return True
    return state.undelivered > 0 and _order(state.last_delivered) < order


def _order(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds or 0), int(sequence or 0)
