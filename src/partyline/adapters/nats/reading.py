"""Pages of the log for views. JetStream filters by subject, reads forward only, and from whichever replica is nearest.

What retention takes of a room is recorded before it goes. So a page first fetches messages, and looks up these records
afterwards: whatever was missing is told. The same look says whether the epoch is still the same, and, where there are
several replicas, the last message of each subject: a replica that was late is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from partyline.adapters.nats.stream import Kept, Stream, TooMany
from partyline.adapters.nats.subjects import Gone, Subjects, message
from partyline.errors import StoreUnavailable
from partyline.interfaces import Fenced, View
from partyline.models import Message, Page
from partyline.stores.retention import lost

_MAX_BYTES: Final = 4 * 1024 * 1024  # of a page's data; one message may be more
_LEAST_BYTES: Final = 256 * 1024  # of one filter's answer
_FEW: Final = 64  # filters of a view that are asked for one by one; for more, all rooms are read
_AT_ONCE: Final = 1_000
_PIECES: Final = 16  # answers that one page is made of, at most
_SLACK: Final = 64  # messages that may be read in vain to find the newest ones
_AGAIN: Final = 0.003  # seconds until a replica that is late is asked again
_TRIES: Final = 500
_LISTED: Final = 100_000  # subjects in one answer of JetStream


class _Check(NamedTuple):
    """What is known after the messages were fetched: offsets lost, and the last offset of each filter (0: none)."""

    gone: int
    lasts: list[int]


class Reader:
    """What a page is read with: `fence` is the sequence of the epoch's record, `top` an offset up to which everything
    has to be there, and `late` whether replicas may not have it yet."""

    def __init__(
        self, stream: Stream, subjects: Subjects, fence: int, top: int, *, late: bool, clock: Callable[[], float]
    ) -> None:
        self.stream = stream
        self.subjects = subjects
        self.fence = fence
        self.top = top
        self.late = late
        self.clock = clock

    async def check(self, view: View, filters: Sequence[bytes]) -> _Check:
        """Raises Fenced."""
        texts = [one.decode() for one in filters]
        gones = [self.subjects.gone(one) for one in filters]
        wanted = [self.subjects.epoch, self.subjects.overs, *gones, *(texts if self.late else ())]
        for _ in range(_TRIES):
            many = False
            try:
                found = await self.stream.lasts(wanted)
            except TooMany:
                many = True
                found = await self.stream.lasts([self.subjects.epoch, self.subjects.overs, self.subjects.pruned])
            if not self.late or found.up_to >= self.top:
                break
            await asyncio.sleep(_AGAIN)
        else:
            raise StoreUnavailable("a replica of the log is late: try again in a moment")
        gone, lasts = 0, [0] * len(filters)
        over: dict[str, int] = {}
        epoch = 0
        for kept in found.kept:
            subject = kept.subject.decode()
            if subject == self.subjects.epoch:
                epoch = kept.sequence
            elif subject == self.subjects.pruned:
                gone = max(gone, int(kept.data))
            elif self.subjects.is_room(kept.subject):
                for place, text in enumerate(texts):
                    if _matches(text, subject):
                        lasts[place] = max(lasts[place], kept.sequence)
            else:
                record = msgspec.json.decode(kept.data, type=Gone)
                if subject.startswith(self.subjects.overs[:-1]):
                    over[record.name] = record.offset
                elif view.covers(record.name):
                    gone = max(gone, record.offset)
        if epoch != self.fence:
            raise Fenced
        if many and self.late:
            lasts = [0 if last is None else last.sequence for last in [await self.stream.last(one) for one in texts]]
        return _Check(max(gone, lost(over, view.rooms, view.patterns)), lasts)

    async def piece(self, filters: Sequence[bytes], at: Sequence[int], count: int) -> list[tuple[list[Kept], bool]]:
        """For each filter the messages after an offset, and whether these are all that the replica has."""
        size = max(_MAX_BYTES // len(filters), _LEAST_BYTES)
        found = await asyncio.gather(
            *(self.stream.after(place, one.decode(), count, size) for one, place in zip(filters, at, strict=True))
        )
        return [(some.kept, not some.pending) for some in found]


async def read(reader: Reader, view: View, after: int, limit: int) -> Page:
    """As `SharedLog.read`."""
    filters = reader.subjects.filters(view)
    if len(filters) > _FEW:
        filters = [reader.subjects.rooms.encode()]
    messages: list[Message] = []
    at, size, check = after, 0, _Check(0, [])
    complete = not filters
    pieces = 0
    for _ in range(_TRIES):
        if complete or pieces == _PIECES or len(messages) == limit or size >= _MAX_BYTES:
            break
        pieces += 1
        found, at_next, complete, newest = await _next(reader, filters, at, limit - len(messages) + 1)
        if complete and reader.late:
            check = await reader.check(view, filters)
            missed = [got for last, got in zip(check.lasts, newest, strict=True) if last > got]
            if missed:  # a replica was late
                complete, at_next = False, min(missed)
                found = [one for one in found if (one.offset or 0) <= at_next]
                pieces -= not found
                await asyncio.sleep(_AGAIN)
        now = reader.clock()
        for one in found:
            if not view.sees(one.draft) or one.expired(now):
                continue
            if len(messages) == limit:
                at_next = (one.offset or 0) - 1
                complete = False
                break
            messages.append(one)
            size += len(one.draft.data)
        at = at_next
    if not complete or not reader.late or not filters:
        check = await reader.check(view, filters)
    last = max(at, after, reader.top if complete else 0)
    return Page(tuple(messages), last, not complete, check.gone + 1)


async def _next(
    reader: Reader, filters: Sequence[bytes], after: int, count: int
) -> tuple[list[Message], int, bool, list[int]]:
    """The next messages of filters, in order; the offset up to which all are there; whether these are all; and the
    newest offset of each filter."""
    found = await reader.piece(filters, [after] * len(filters), count)
    newest = [max(after, kept[-1].sequence if kept else 0) for kept, _ in found]
    open_ends = [got for got, (_, whole) in zip(newest, found, strict=True) if not whole]
    until = min(open_ends, default=max(newest))
    there = {kept.sequence: kept for some, _ in found for kept in some if kept.sequence <= until}
    return [message(there[place]) for place in sorted(there)], until, not open_ends, newest


async def newest(reader: Reader, room: str, before: int, limit: int) -> Sequence[Message]:
    """As `SharedLog.newest`."""
    subject = reader.subjects.room(room)
    view = View(frozenset((room,)))
    for _ in range(_TRIES):
        found, top = await _newest(reader, subject.decode(), before, limit)
        check = await reader.check(view, [subject])
        if not reader.late or top >= min(before, check.lasts[0]):
            return found
        await asyncio.sleep(_AGAIN)
    raise StoreUnavailable("a replica of the log is late: try again in a moment")


async def _newest(reader: Reader, subject: str, before: int, limit: int) -> tuple[list[Message], int]:
    """The newest messages before an offset, and the highest offset that was seen, perhaps after it."""
    found: list[Message] = []
    end, top, size = before, 0, 0
    after_end = await _rank(reader, subject, end)
    while end > 1 and len(found) < limit and size < _MAX_BYTES:
        wanted = limit - len(found)
        start, there = await _start(reader, subject, end, after_end, wanted)
        kept = await _between(reader, subject, start, end, there - after_end)
        top = max([top, *(one.sequence for one in kept)])
        now = reader.clock()
        some = [one for one in map(message, kept) if (one.offset or 0) < end and not one.expired(now)]
        for newer in reversed(some[-wanted:]):
            size += len(newer.draft.data)
            if size > _MAX_BYTES and found:
                break
            found.insert(0, newer)
        if start <= 1:
            break
        end, after_end = start, there
    return found, top


async def _between(reader: Reader, subject: str, start: int, end: int, count: int) -> list[Kept]:
    """The messages of a subject from one offset to another one, and perhaps some after that."""
    found: list[Kept] = []
    at = start - 1
    while True:
        piece = await reader.stream.after(at, subject, min(count + 1, _AT_ONCE), _MAX_BYTES)
        found += piece.kept
        if not piece.kept or not piece.pending or piece.kept[-1].sequence >= end:
            return found
        at = piece.kept[-1].sequence


async def _start(reader: Reader, subject: str, end: int, after_end: int, wanted: int) -> tuple[int, int]:
    """An offset from which on there are enough messages before `end`, and not many more; and how many there are from
    it on in all."""
    step = 2 * wanted
    low, high = max(1, end - step), end
    there = await _rank(reader, subject, low)
    while there - after_end < wanted and low > 1:
        high, step = low, 4 * step
        low = max(1, end - step)
        there = await _rank(reader, subject, low)
    while there - after_end > wanted + _SLACK and high - low > 1:
        middle = (low + high) // 2
        more = await _rank(reader, subject, middle)
        if more - after_end >= wanted:
            low, there = middle, more
        else:
            high = middle
    return low, there


async def _rank(reader: Reader, subject: str, offset: int) -> int:
    """How many messages a subject has from an offset on."""
    found = await reader.stream.after(offset - 1, subject, 1, 1)
    return found.pending + len(found.kept)


async def rooms(stream: Stream, subjects: Subjects) -> set[bytes]:
    """The subjects of all rooms that have messages."""
    return {subject.encode() for subject, _ in await counts(stream, subjects)}


async def counts(stream: Stream, subjects: Subjects) -> list[tuple[str, int]]:
    """The subjects of all rooms, and how many messages each has."""
    found: list[tuple[str, int]] = []
    while True:
        request = {"subjects_filter": subjects.rooms, "offset": len(found)}
        info = await stream.api("STREAM.INFO", request)
        some = info["state"].get("subjects") or {}
        found += some.items()
        if len(some) < _LISTED or len(found) >= info.get("total", 0):
            return found


def _matches(pattern: str, subject: str) -> bool:
    """Whether a filter covers a subject."""
    wanted, parts = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        parts = parts[: len(wanted)] if len(parts) > len(wanted) else []
    return len(wanted) == len(parts) and all(want in ("*", part) for want, part in zip(wanted, parts, strict=True))
