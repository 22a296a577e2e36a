"""Projection: what the control plane publishes in Redis or Valkey, and the edge looks callers up in.

The control plane keeps its books in PostgreSQL and writes here what an edge process needs to know of them; the edge
only reads. Callers and organizations are spread over 4096 hashes (buckets) by a SHA-256. Each hash also has the field
`#`, which says how many others it must hold: what is missing from a hash that holds as many is *absent*, and from any
other one *unknown*. A store that was emptied, evicted from or is half filled is never taken for the truth.

Everything is written by one publisher, through scripts that also add to a stream of changes. Within a generation its
numbers have no gap; a new generation means that all was written anew. All keys have one hash tag, as a script touches
several.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, Literal

import msgspec

VERSION: Final = 1
"""Of the records. A reader that meets a higher one does not understand it: the caller is unknown to it, not absent."""

PREFIX: Final = "tallygate:{directory}:"
STATE: Final = PREFIX + "state"
"""Hash: `generation` (text), `complete` (1 once all of it is written), `sequence` (of the last change)."""
CHANGES: Final = PREFIX + "changes"
"""Stream of changes; each entry's payload is a Change, in the field that all our streams use (`f`)."""
REVOKED: Final = PREFIX + "revoked"
"""Hash: `jti:<id>`, `session:<id>` or `subject:<id>` → when it may be forgotten, in Unix seconds; and `#`."""

BUCKETS: Final = 4096
COUNT: Final = b"#"
"""The field of a hash that holds how many other fields it must have."""
LONGEST_STREAM: Final = 10_000
"""Changes that are kept, about. Who is further behind than that starts afresh."""

RevocationKind = Literal["jti", "session", "subject"]
ChangeKind = Literal["key", "organization", "revocation", "all"]


class KeyLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit of one key's own: `amount` of `meter` in `window_seconds`. Nothing enforces it yet."""

    meter: str
    amount: int
    window_seconds: int


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the edge knows of one secret of an API key. Times are Unix seconds.

    Roles are resolved: `permissions` is all that the key may do. An empty `routes` or `networks` restricts nothing.
    """

    v: int = VERSION
    id: str
    name: str
    """Who calls: the user or service account it belongs to, else the key's own id."""
    organization: str
    user: str = ""
    subscription: str = ""
    plan: str = ""
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    routes: tuple[str, ...] = ()
    """Names of the only routes it may use."""
    networks: tuple[str, ...] = ()
    """The only networks (CIDR) it may be used from."""
    limits: tuple[KeyLimit, ...] = ()
    expires_at: int | None = None
    """It is no longer valid from this second on: the key's own end, or that of a secret that was rotated."""
    revoked_at: int | None = None
    """Set: it is refused. A disabled organization, user or service account sets it too."""
    epoch: int = 0
    """Grows with every change of the key."""


class OrganizationRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the edge knows of an organization, for callers whose token names it."""

    v: int = VERSION
    name: str
    subscription: str = ""
    plan: str = ""
    disabled: bool = False
    roles: dict[str, tuple[str, ...]] = {}
    """The permissions of each role that its callers may have, global roles included."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something that was published. `kind` says what `ids` are.

    key: SHA-256s in hexadecimal. organization: names; what their keys and roles may do can have changed too.
    revocation: fields of `REVOKED`, whose values are in `expires_at`; one of 0 means that it was taken back. all:
    nothing that was known before counts any longer.
    """

    v: int = VERSION
    sequence: int
    kind: ChangeKind
    ids: tuple[str, ...] = ()
    expires_at: tuple[int, ...] = ()


encode: Final = msgspec.json.Encoder().encode
decode_key: Final = msgspec.json.Decoder(KeyRecord).decode
decode_organization: Final = msgspec.json.Decoder(OrganizationRecord).decode
decode_change: Final = msgspec.json.Decoder(Change).decode
"""The decoders raise msgspec.DecodeError, or its ValidationError, for what they do not understand."""


def name_digest(name: str) -> bytes:
    """SHA-256 of an organization's name: its field in `organizations_key`."""
    return sha256(name.encode()).digest()


def keys_key(digest: bytes) -> str:
    """The hash that a key's SHA-256 belongs to: field SHA-256, value KeyRecord."""
    return keys_bucket(bucket_of(digest))


def keys_bucket(number: int) -> str:
    """The hash of keys with this number, below `BUCKETS`."""
    return f"{PREFIX}keys:{number:03x}"


def organizations_key(digest: bytes) -> str:
    """The hash that an organization belongs to, by `name_digest`: field `name_digest`, value OrganizationRecord."""
    return organizations_bucket(bucket_of(digest))


def organizations_bucket(number: int) -> str:
    """The hash of organizations with this number, below `BUCKETS`."""
    return f"{PREFIX}organizations:{number:03x}"


def bucket_of(digest: bytes) -> int:
    """The first twelve bits."""
    return digest[0] << 4 | digest[1] >> 4


def bounds_of(number: int) -> tuple[bytes, bytes]:
    """The least SHA-256 of a hash, and that of the next one; empty behind the last."""
    least, following = ((each << 4).to_bytes(3)[-2:].ljust(32, b"\0") for each in (number, number + 1))
    return least, following if number + 1 < BUCKETS else b""


LOOK_UP: Final = """
local state = redis.call('HMGET', KEYS[2], 'complete', 'generation', 'sequence')
local held = redis.call('HGET', KEYS[1], '#')
local whole = state[1] == '1' and held and redis.call('HLEN', KEYS[1]) == tonumber(held) + 1
local values = {}
if #ARGV > 0 then values = redis.call('HMGET', KEYS[1], unpack(ARGV)) end
return {whole and 1 or 0, state[2], state[3], values}
"""
"""Script. Keys: a hash and `STATE`; arguments: fields of the hash, up to some thousands.

Returns whether the hash can be believed (1 or 0), generation, sequence, and the fields' values; None where there is
none: absent if it can be believed, else unknown.
"""

START: Final = """
local state = redis.call('HMGET', KEYS[2], 'complete', 'generation', 'sequence')
local held = redis.call('HGET', KEYS[1], '#')
if state[1] ~= '1' or not held or redis.call('HLEN', KEYS[1]) ~= tonumber(held) + 1 then return false end
local newest = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', '1')
return {state[2], state[3], newest[1] and newest[1][1] or '0-0', redis.call('HGETALL', KEYS[1])}
"""
"""Script. Keys: `REVOKED`, `STATE`, `CHANGES`. Returns generation, sequence, the id of the newest change and the
revocations, all of one moment; None where the store is not complete.
"""

PUBLISH: Final = """
local state = redis.call('HMGET', KEYS[1], 'generation', 'complete', 'sequence')
if state[1] ~= ARGV[1] or state[2] ~= '1' or state[3] ~= ARGV[2] then return -1 end
local sequence, most, writes = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
for number = 3, #KEYS do
  if not redis.call('HGET', KEYS[number], '#') then return -1 end
end
for at = 5, 4 + writes * 3, 3 do
  local key = KEYS[tonumber(ARGV[at])]
  if ARGV[at + 2] == '' then
    redis.call('HINCRBY', key, '#', 0 - redis.call('HDEL', key, ARGV[at + 1]))
  else
    redis.call('HINCRBY', key, '#', redis.call('HSET', key, ARGV[at + 1], ARGV[at + 2]))
  end
end
for at = 5 + writes * 3, #ARGV do
  sequence = sequence + 1
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', most, '*', 'f', ARGV[at])
end
redis.call('HSET', KEYS[1], 'sequence', string.format('%d', sequence))
return sequence
"""
"""Script: some writes and the changes that tell of them, all or none.

Keys: `STATE`, `CHANGES`, then the hashes. Arguments: generation, sequence before, `LONGEST_STREAM`, the number of
writes; three for each write: the number of its key (counted from 1), field, value (empty: delete); then the changes.
Returns the new sequence, or -1 and nothing is done, where the state is another one or a hash is missing: then all has
to be written anew.
"""

BEGIN: Final = "redis.call('HSET', KEYS[1], 'complete', '0', 'projecting', ARGV[1]) return 1"
"""Script: from now on all is written anew, and nothing that is missing is absent. Key: `STATE`; argument: the new
generation."""

REPLACE: Final = """
if redis.call('HGET', KEYS[1], 'projecting') ~= ARGV[1] then return 0 end
local from = 2
for number = 2, #KEYS do
  redis.call('DEL', KEYS[number])
  local count = tonumber(ARGV[from])
  redis.call('HSET', KEYS[number], '#', string.format('%d', count))
  for at = from + 1, from + count * 2, 2 do redis.call('HSET', KEYS[number], ARGV[at], ARGV[at + 1]) end
  from = from + 1 + count * 2
end
return 1
"""
"""Script: writes whole hashes anew while all is written anew.

Keys: `STATE`, then hashes. Arguments: the generation that is being written; for each hash the number of its fields,
then each field and value. Returns 0, and nothing is done, where another generation is being written by now.
"""

REPAIR: Final = """
local state = redis.call('HMGET', KEYS[1], 'generation', 'complete', 'sequence')
if state[1] ~= ARGV[1] or state[2] ~= '1' or state[3] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], '#', string.format('%d', (#ARGV - 2) / 2))
for at = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
return 1
"""
"""Script: writes one hash anew that lost something, while all others hold.

Keys: `STATE`, the hash. Arguments: generation, sequence, then each field and value. Returns 0, and nothing is done,
where the state is another one: somebody else has published since.
"""

FINISH: Final = """
if redis.call('HGET', KEYS[1], 'projecting') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'complete', '1', 'sequence', '1')
redis.call('HDEL', KEYS[1], 'projecting')
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'f', ARGV[3])
return 1
"""
"""Script: all was written anew. Keys: `STATE`, `CHANGES`; arguments: the new generation, `LONGEST_STREAM`, the Change
of kind all with sequence 1. Returns 0, and nothing is done, where another generation is being written by now."""


def publish_arguments(
    generation: str, sequence: int, writes: Iterable[tuple[str, bytes, bytes]], changes: Iterable[Change]
) -> tuple[list[str], list[str | bytes | int]]:
    """Keys and arguments of `PUBLISH` for writes of (hash, field, value); an empty value deletes the field."""
    keys: dict[str, int] = {STATE: 1, CHANGES: 2}
    arguments: list[str | bytes | int] = []
    count = 0
    for key, field, value in writes:
        arguments += (keys.setdefault(key, len(keys) + 1), field, value)
        count += 1
    return list(keys), [generation, sequence, LONGEST_STREAM, count, *arguments, *map(encode, changes)]
