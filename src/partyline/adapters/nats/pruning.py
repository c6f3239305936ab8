"""What goes from the stream when it is too old or too much. Every node does it: what is gone already costs nothing.

What a room will have lost is recorded before it goes, so that readers who miss something are told. These records are
kept for a week; then one for all rooms of a rule takes their place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from partyline.adapters.nats.reading import counts
from partyline.adapters.nats.stream import OTHER, Declined, Stream
from partyline.adapters.nats.subjects import Gone, Subjects, message
from partyline.interfaces import Fenced
from partyline.stores.retention import Retention

_LOOKS: Final = 500  # rooms whose oldest message is looked at in one round
_REMEMBERED: Final = 100_000  # rooms whose oldest message is known
_PIECE: Final = 500
_PIECES: Final = 8  # of one room in one round
_MAX_BYTES: Final = 4 * 1024 * 1024
_SOON: Final = 0.02  # seconds until a record is looked at again that another node has just written
_OLD: Final = 7 * 86400.0  # seconds that a record of one room stays


class Pruner:
    """One node's share of it."""

    PAUSE: Final = 10.0  # seconds between two rounds

    def __init__(
        self, stream: Stream, subjects: Subjects, retention: Retention, spared: float, clock: Callable[[], float]
    ) -> None:
        self.stream = stream
        self._subjects = subjects
        self._retention = retention
        self._spared = spared
        self._clock = clock
        self._oldest: dict[str, float] = {}  # by room's subject, the time of its oldest message
        self._sized: dict[str, int] = {}  # how many messages a room had whose bytes were counted and fit

    async def round(self, fence: int) -> None:
        """Look at the rooms once. Raises Fenced and StoreUnavailable."""
        epoch = await self.stream.last(self._subjects.epoch)
        if epoch is None or epoch.sequence != fence:
            raise Fenced
        looks = 0
        cuts: list[tuple[str, int]] = []
        rooms = await counts(self.stream, self._subjects)
        for subject, count in rooms:
            if subject in self._oldest or looks < _LOOKS:
                looks += subject not in self._oldest
                cut = await self._cut(subject, count)
                if cut:
                    cuts.append((subject, cut))
        if cuts:
            await self._raise(self._subjects.pruned, max(cut for _, cut in cuts), "")
            for subject, cut in cuts:
                await self.stream.api("STREAM.PURGE", {"filter": subject, "seq": cut + 1})
        if len(self._oldest) > _REMEMBERED:
            self._oldest.clear()
        await self._forget()

    async def _cut(self, subject: str, count: int) -> int:
        """The offset up to which a room's messages go, recorded; 0 if none does."""
        now = self._clock()
        oldest = self._oldest.get(subject)
        bounds = self._retention.of(self._subjects.name(subject))
        if oldest is None:
            some = await self.stream.after(0, subject, 1, 1)
            if not some.kept:
                return 0
            oldest = self._oldest[subject] = message(some.kept[0]).time
        size = None
        if bounds.max_bytes is not None and self._sized.get(subject) != count:
            size = await self._size(subject)
            self._sized[subject] = count
        if now - oldest <= bounds.max_age and not bounds.exceeded(count, size or 0):
            return 0
        cut, name = 0, ""
        for _ in range(_PIECES):
            found = await self.stream.after(cut, subject, _PIECE, _MAX_BYTES)
            for kept in found.kept:
                one = message(kept)
                self._oldest[subject] = one.time
                old = now - one.time > bounds.max_age
                if now - one.time < self._spared or not (old or bounds.exceeded(count, size or 0)):
                    return await self._record(subject, name, cut)
                cut, name = kept.sequence, one.room
                count -= 1
                size = None if size is None else size - len(one.draft.data)
            if not found.pending:
                self._oldest.pop(subject, None)
                break
        return await self._record(subject, name, cut)

    async def _size(self, subject: str) -> int:
        """The bytes of a room's data."""
        size = at = 0
        pending = 1
        while pending:
            found = await self.stream.after(at, subject, _PIECE, _MAX_BYTES)
            size += sum(len(message(kept).draft.data) for kept in found.kept)
            pending = found.pending if found.kept else 0
            at = found.kept[-1].sequence if found.kept else at
        return size

    async def _record(self, subject: str, name: str, cut: int) -> int:
        if cut:
            self._sized.pop(subject, None)
            await self._raise(self._subjects.gone(subject.encode()), cut, name)
        return cut

    async def _raise(self, subject: str, offset: int, name: str | None) -> None:
        """Have a record say at least this offset."""
        while True:
            last = await self.stream.last(subject)
            plain = subject == self._subjects.pruned
            if last is not None:
                known = int(last.data) if plain else msgspec.json.decode(last.data, type=Gone).offset
                if known >= offset:
                    return
            data = b"%d" % offset if plain else msgspec.json.encode(Gone(name or "", offset, self._clock()))
            head = b"Nats-Rollup:sub\r\nNats-Expected-Last-Subject-Sequence:%d\r\n" % (last.sequence if last else 0)
            try:
                await self.stream.publish(subject.encode(), data, head)
                return
            except Declined as error:
                if error.number not in OTHER:
                    raise
                await asyncio.sleep(_SOON)

    async def _forget(self) -> None:
        """Let one record for a rule take the place of old ones for rooms."""
        found = await self.stream.after(0, self._subjects.gones, _PIECE, _MAX_BYTES)
        for kept in found.kept:
            record = msgspec.json.decode(kept.data, type=Gone)
            if self._clock() - record.time < _OLD:
                return
            rule, _ = self._retention.rule(record.name)
            await self._raise(self._subjects.over(rule), record.offset, rule)
            request = {"filter": kept.subject.decode(), "seq": kept.sequence + 1}
            await self.stream.api("STREAM.PURGE", request)
