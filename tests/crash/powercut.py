"""What a disk holds after a power cut: a record of writes and fsyncs (record.c), and the states that it allows."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("=4Q")
_SECTOR = 512  # bytes that reach the disk together


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the record; record.c has the operations."""

    operation: str
    inode: int
    offset: int
    data: bytes

    @property
    def name(self) -> str:
        """The file that was opened or unlinked, without its folder."""
        return Path(self.data.decode()).name


def read_record(path: Path) -> Iterator[Event]:
    """The entries, oldest first. The last one may be torn if the process was killed."""
    content = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(content):
        operation, inode, offset, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        if at + size > len(content):
            return
        yield Event(chr(operation), inode, offset, content[at : at + size])
        at += size


@dataclass(slots=True, eq=False)
class File:
    """One inode: what is certainly on the disk, and the later changes, which may be there or not."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    syncing: int = 0  # how many of the pending changes the running fsync covers

    def content(self, chance: random.Random | None) -> bytes:
        """What is found after a cut: without `chance` what is synced, with it also some unsynced sectors."""
        content = bytearray(self.synced)
        if chance is not None:
            for event in self.pending:
                _apply(content, event, chance)
        return bytes(content)


def _apply(content: bytearray, event: Event, chance: random.Random | None = None) -> None:
    """Change `content`: wholly, or by `chance` not at all, in some sectors, or wholly."""
    keep = 1.0 if chance is None else chance.choice((0.0, 0.5, 1.0))
    if event.operation == "T":
        if keep:
            del content[event.offset :]
            content.extend(bytes(event.offset - len(content)))
        return
    at, end = event.offset, event.offset + len(event.data)
    while at < end:
        stop = min(end, (at // _SECTOR + 1) * _SECTOR)
        if keep == 1.0 or (chance is not None and chance.random() < keep):
            content.extend(bytes(max(0, stop - len(content))))
            content[at:stop] = event.data[at - event.offset : stop - event.offset]
        at = stop


class Disk:
    """A folder on a disk that keeps what was synced, and any part of everything else.

    Names are synced only by an fsync of the folder; changes of names are kept in order, as journals do.
    """

    def __init__(self) -> None:
        self._inodes: dict[int, File] = {}
        self._names: dict[str, File] = {}
        self._synced_names: dict[str, File] = {}
        self._pending_names: list[tuple[str, File | None]] = []
        self._syncing_names = 0

    def apply(self, event: Event) -> None:
        """Apply the next entry of the record."""
        match event.operation:
            case "O":
                if event.name not in self._names:
                    self._inodes[event.inode] = self._names[event.name] = File()
                    self._pending_names.append((event.name, self._names[event.name]))
            case "U":
                del self._names[event.name]
                self._pending_names.append((event.name, None))
            case "W" | "T":
                self._inodes[event.inode].pending.append(event)
            case "B" if event.inode:
                self._inodes[event.inode].syncing = len(self._inodes[event.inode].pending)
            case "S" if event.inode:
                file = self._inodes[event.inode]
                for change in file.pending[: file.syncing]:
                    _apply(file.synced, change)
                del file.pending[: file.syncing]
            case "B":
                self._syncing_names = len(self._pending_names)
            case "S":
                for name, entry in self._pending_names[: self._syncing_names]:
                    _rename(self._synced_names, name, entry)
                del self._pending_names[: self._syncing_names]

    def cut(self, chance: random.Random | None = None) -> dict[str, bytes]:
        """The files after a power cut now: `chance` decides what is kept besides what is synced; None keeps nothing
        else."""
        names = dict(self._synced_names)
        if chance is not None:
            for name, entry in self._pending_names[: chance.randint(0, len(self._pending_names))]:
                _rename(names, name, entry)
        return {name: file.content(chance) for name, file in names.items()}


def _rename(names: dict[str, File], name: str, entry: File | None) -> None:
    if entry is None:
        names.pop(name, None)
    else:
        names[name] = entry
