"""Segment: one file of the journal: how records lie in it, and how they are read back after a crash.

A record is `u32 length, u32 CRC-32, u8 kind, u32 number, payload`, little-endian; the checksum covers everything after
itself. The file is allocated at its full size before the first record, so a length of zero (or the end of the file)
ends it. It is written through memory that is mapped onto it, without a system call for each record: what is there is
the kernel's to keep, whatever becomes of the process. One that is killed while it writes leaves at most one record cut
short, which its checksum tells; the whole ones before it count.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Collection, Iterator
from io import FileIO
from mmap import mmap
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from gateway.metering.event import UsageEvent, decode_event, shard_of

STARTED: Final = 1
"""A use has begun. Never sent; its segment stays until the final record with the same event id is written."""
FINAL: Final = 2
"""A usage event, to be accounted for exactly once."""

UNNUMBERED: Final = 0xFFFFFFFF
LARGEST_PAYLOAD: Final = 4096
_PREFIX: Final = struct.Struct("<II")
_BODY: Final = struct.Struct("<BI")
_HEADER: Final = struct.Struct("<IIBI")
HEADER_SIZE: Final = _PREFIX.size + _BODY.size
LARGEST_RECORD: Final = HEADER_SIZE + LARGEST_PAYLOAD
CHUNK: Final = 256 * 1024

_log: Final = logging.getLogger(__name__)

_pack_header: Final = _HEADER.pack
_pack_body: Final = _BODY.pack


class Record(NamedTuple):
    """One record: kind, its place among the final records of the segment (UNNUMBERED if started), packed event."""

    kind: int
    number: int
    payload: bytes


class Segment:
    """What is known in memory of one segment, while it is written and until it is deleted.

    `records` counts what was appended to it, `finals` its final records, `shards` says whose they are; `starts` counts
    its started records whose final is not yet written anywhere; `settles` are the earlier segments that hold the
    started record of a final in this one: they must be deleted first, or adoption would find that start without its
    end. `unshipped` final records wait in memory to be sent; `unsent` is true when some can only be sent from the file;
    `sent` holds, per shard, the id of the last stream entry with records of this segment. While `syncing`, the file
    must stay open. `oldest_at` is the earliest time of use in it, in microseconds, where known.
    """

    __slots__ = (
        "accounted",
        "deleted",
        "fd",
        "finals",
        "memory",
        "name",
        "oldest_at",
        "path",
        "position",
        "records",
        "sent",
        "settles",
        "shards",
        "size",
        "starts",
        "syncing",
        "unsent",
        "unshipped",
    )

    def __init__(self, name: str, path: Path, size: int) -> None:
        self.name = name
        self.path = path
        self.size = size
        self.fd = -1
        self.memory: mmap | None = None
        self.position = 0
        self.records = 0
        self.finals = 0
        self.starts = 0
        self.shards: set[int] = set()
        self.settles: set[Segment] = set()
        self.sent: dict[int, str] = {}
        self.unshipped = 0
        self.syncing = 0
        self.unsent = False
        self.oldest_at: int | None = None
        self.accounted = False
        self.deleted = False

    def open(self, fd: int) -> None:
        """Begin to write, into the file that `fd` is open on, all of whose space is allocated. Raises OSError."""
        self.memory = mmap(fd, self.size)
        self.fd = fd

    def append(self, kind: int, payload: bytes) -> bool:
        """One more record, if there is room for it. It survives the death of this process when this returns."""
        position = self.position
        end = position + HEADER_SIZE + len(payload)
        if end > self.size:
            return False
        number = self.finals if kind == FINAL else UNNUMBERED
        self.memory[position:end] = encode_record(kind, number, payload)  # type: ignore[index] # it is open
        self.position = end
        self.records += 1
        if kind == FINAL:
            self.finals = number + 1
        return True

    def close(self) -> None:
        """Give back descriptor and memory. Nothing can be written any more."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __repr__(self) -> str:
        return f"<segment {self.name}: {self.finals} finals, {self.starts} open starts, {self.position} bytes>"


def encode_record(kind: int, number: int, payload: bytes) -> bytes:
    """A record as it lies in the file."""
    checksum = crc32(payload, crc32(_pack_body(kind, number)))
    return _pack_header(len(payload), checksum, kind, number) + payload


class SegmentReader:
    """Iterates over the whole records of a segment's file, from the first to the first that is not whole.

    Afterwards `position` is where they end, `finals` how many final records there were, and `damaged` tells whether
    something other than unused space follows. Read, not mapped: its owner may cut the file meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = b""
        self._start = 0
        self.position = 0
        self.finals = 0
        self.damaged = False

    def __iter__(self) -> Iterator[Record]:
        """Raises OSError if the file cannot be read."""
        with self._path.open("rb", buffering=0) as file:
            while (record := self._record(file)) is not None:
                yield record
            file.seek(self.position)
            while chunk := file.read(CHUNK):
                self.damaged = self.damaged or bool(chunk.strip(b"\0"))

    def first(self) -> Record | None:
        """The first record alone, without reading what follows; None if there is no whole one. Raises OSError."""
        with self._path.open("rb", buffering=0) as file:
            return self._record(file)

    def _record(self, file: FileIO) -> Record | None:
        prefix = self._bytes(file, 0, _PREFIX.size)
        if len(prefix) < _PREFIX.size:
            return None
        length, checksum = _PREFIX.unpack(prefix)
        if length == 0 or length > LARGEST_PAYLOAD:
            return None
        body = self._bytes(file, _PREFIX.size, _BODY.size + length)
        if len(body) < _BODY.size + length or crc32(body) != checksum:
            return None
        kind, number = _BODY.unpack_from(body)
        if kind not in (STARTED, FINAL) or number != (self.finals if kind == FINAL else UNNUMBERED):
            return None
        if kind == FINAL:
            self.finals += 1
        self.position += HEADER_SIZE + length
        return Record(kind, number, body[_BODY.size :])

    def _bytes(self, file: FileIO, skip: int, count: int) -> bytes:
        """`count` bytes from `skip` behind the position, fewer at the end of the file."""
        begin = self.position + skip - self._start
        if begin + count > len(self._buffer):
            self._start = self.position
            file.seek(self._start)
            self._buffer = file.read(CHUNK)
            begin = skip
        return self._buffer[begin : begin + count]


def decode_payload(payload: bytes) -> UsageEvent | None:
    """The event of a record; None if a newer version wrote what this one cannot read."""
    try:
        return decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def shard_of_payload(payload: bytes, shards: int) -> int:
    """The shard a record is sent to; what cannot be read goes to the first, to end there as a dead letter."""
    event = decode_payload(payload)
    return 0 if event is None else shard_of(event.organization, shards)


def first_admitted_at(path: Path) -> int | None:
    """When the request of the first record was admitted, in microseconds; None if there is no whole record.

    Raises OSError.
    """
    record = SegmentReader(path).first()
    event = decode_payload(record.payload) if record is not None else None
    return None if event is None else event.admitted_at


def survey(segment: Segment, shards: int) -> dict[bytes, bytes]:
    """Fills in what can be learnt of a segment from its file; returns its started records by event id.

    Afterwards `segment.position` is where the whole records end. Raises OSError.
    """
    starts: dict[bytes, bytes] = {}
    reader = SegmentReader(segment.path)
    oldest: int | None = None
    for record in reader:
        event = decode_payload(record.payload)
        if record.kind == FINAL:
            segment.shards.add(0 if event is None else shard_of(event.organization, shards))
        if event is not None:
            if record.kind == STARTED:
                starts[event.event_id] = record.payload
            at = event.admitted_at if record.kind == STARTED else event.occurred_at
            oldest = at if oldest is None else min(oldest, at)
    segment.finals, segment.position, segment.oldest_at = reader.finals, reader.position, oldest
    return starts


def settled(segment: Segment, starts: Collection[bytes]) -> list[bytes]:
    """The event ids among `starts` whose final record is in this segment. Raises OSError."""
    finals = (decode_payload(record.payload) for record in SegmentReader(segment.path) if record.kind == FINAL)
    return [event.event_id for event in finals if event is not None and event.event_id in starts]


def repair(segment: Segment) -> int:
    """Cuts the file behind its last whole record; returns how many bytes of content that removed. Raises OSError.

    A record cut short was never acknowledged and is worth nothing. More than one record's worth of content is damage
    of another kind: it is kept beside the segment as `.damaged`, to be looked into.
    """
    with segment.path.open("r+b") as file:
        file.seek(segment.position)
        rest = file.read().rstrip(b"\0")
        if len(rest) > LARGEST_RECORD:
            segment.path.with_suffix(".damaged").write_bytes(rest)
            _log.error("segment %s is damaged at %d; the rest is kept beside it", segment.name, segment.position)
        file.truncate(segment.position)
    return len(rest)
