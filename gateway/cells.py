"""Cells: the file in which one process keeps its counters, and which survives that process.

A number in it is eight bytes of memory shared with the file system, so counting costs no system call, nothing is lost
when the process is killed between two instructions, and a process that takes the dead one's place goes on counting
where it stopped. Another process (the supervisor) reads the file at any time without a lock.

Layout: a magic string; definitions, append-only, each `u32 length, u32 CRC-32, msgpack`; then the cells, float64.
A definition is valid when its checksum is, and the first invalid one ends the list: what a writer was in the middle
of writing when it died is overwritten by its successor. A file is never shortened or rewritten in place; one that
cannot be used is replaced by a new one under the same name.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

MAGIC: Final = b"tallygate cells 1\n"
DEFINITIONS_START: Final = 64
CELLS_START: Final = 2**20
CELLS: Final = 2**17
SIZE: Final = CELLS_START + CELLS * 8
SCRAP: Final = 64
"""The first cells are written by whoever found the file full, and read by nobody."""

_prefix = struct.Struct("<II")

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class FamilyRecord(msgspec.Struct, array_like=True, frozen=True, tag="family"):
    """A metric: its name, what it counts, the names of its labels and, for a histogram, its upper bounds."""

    name: str
    kind: Kind
    doc: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]

    @property
    def width(self) -> int:
        """Cells of one series: one value, or a histogram's sum and a count per bucket, the last one unbounded."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class SeriesRecord(msgspec.Struct, array_like=True, frozen=True, tag="series"):
    """One combination of label values: the place of its family in this file and its first cell."""

    family: int
    values: tuple[str, ...]
    first: int


Definition: TypeAlias = FamilyRecord | SeriesRecord
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Definition).decode


class Cells:
    """The writing side: the one process that owns the file. Without a path the cells are private memory."""

    def __init__(self, path: Path | None) -> None:
        """Opens the file, or makes it, with all its space allocated. Raises OSError."""
        memory = mmap.mmap(-1, SIZE) if path is None else _map(path)
        self._memory = memory
        self.numbers: memoryview[float] = memoryview(memory)[CELLS_START:].cast("d")
        self.families: list[FamilyRecord] = []
        self.series: list[SeriesRecord] = []
        self._end = DEFINITIONS_START
        self._free = SCRAP
        for definition, end in definitions(memory, DEFINITIONS_START):
            self._end = end
            if isinstance(definition, FamilyRecord):
                self.families.append(definition)
            else:
                self.series.append(definition)
                self._free = max(self._free, definition.first + self.families[definition.family].width)

    def define_family(self, record: FamilyRecord) -> int | None:
        """Adds a family; its place in the file, or None when the file is full."""
        if not self._append(record):
            return None
        self.families.append(record)
        return len(self.families) - 1

    def define_series(self, family: int, values: tuple[str, ...]) -> int | None:
        """Adds a series, all its cells zero; its first cell, or None when the file is full."""
        first, width = self._free, self.families[family].width
        if first + width > CELLS:
            return None
        for cell in range(first, first + width):
            self.numbers[cell] = 0.0
        if not self._append(SeriesRecord(family, values, first)):
            return None
        self._free += width
        return first

    def _append(self, definition: Definition) -> bool:
        payload = _encode(definition)
        record = _prefix.pack(len(payload), zlib.crc32(payload)) + payload
        end = self._end + len(record)
        if end > CELLS_START:
            return False
        self._memory[self._end : end] = record
        self._end = end
        return True


class CellsReader:
    """The reading side: any process, at any time; it follows the file as it grows and as it is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._memory: mmap.mmap | None = None
        self._offset = DEFINITIONS_START
        self.families: list[FamilyRecord] = []
        self.series: list[SeriesRecord] = []

    def read(self) -> memoryview[float] | None:
        """Looks for new definitions; the cells, which change while they are read, or None when there is no file."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if status.st_size != SIZE:
                return None
            if self._memory is None or self._identity != (status.st_dev, status.st_ino):
                self._identity = (status.st_dev, status.st_ino)
                self._memory = mmap.mmap(descriptor, SIZE, prot=mmap.PROT_READ)
                self._offset = DEFINITIONS_START
                self.families, self.series = [], []
        finally:
            os.close(descriptor)
        for definition, end in definitions(self._memory, self._offset):
            self._offset = end
            if isinstance(definition, FamilyRecord):
                self.families.append(definition)
            else:
                self.series.append(definition)
        return memoryview(self._memory)[CELLS_START:].cast("d")


def definitions(memory: mmap.mmap, offset: int) -> Iterator[tuple[Definition, int]]:
    """The valid definitions from `offset` on, each with the offset behind it."""
    while offset + _prefix.size < CELLS_START:
        length, checksum = _prefix.unpack_from(memory, offset)
        payload = memory[offset + _prefix.size : min(offset + _prefix.size + length, CELLS_START)]
        if not length or len(payload) < length or zlib.crc32(payload) != checksum:
            return
        try:
            definition = _decode(payload)
        except msgspec.DecodeError:  # written by a version of this program that had other definitions
            return
        offset += _prefix.size + length
        yield definition, offset


def _map(path: Path) -> mmap.mmap:
    """The file in memory; a missing or foreign one is made anew, complete before it gets its name."""
    if not _usable(path):
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Allocated, not only sized: a page of a mapped file for which the disk has no room is a SIGBUS.
            os.posix_fallocate(descriptor, 0, SIZE)
            os.pwrite(descriptor, MAGIC, 0)
        finally:
            os.close(descriptor)
        fresh.replace(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, SIZE)
    finally:
        os.close(descriptor)


def _usable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == SIZE and file.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        return False
