"""Appending to the stream: atomic batches that JetStream keeps whole or not at all.

An id that its publisher chose is a record of its own, in front of its message, on a subject that JetStream checks to be
new: so no two nodes keep one message twice, and the record expires when the id need not be known any more. An id that
was drawn at random is JetStream's to remember for two minutes: only this node may repeat it, to settle an append whose
outcome is unknown. One message of each batch names the sequence of the epoch's record: JetStream refuses the batch if
there is another epoch by now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from partyline.adapters.nats.line import Arrived
from partyline.adapters.nats.stream import Declined, Kept, Stream, acknowledged
from partyline.adapters.nats.subjects import Subjects, content, identity, message, written
from partyline.errors import InvalidValue, PartylineError, PayloadTooLarge, StoreUnavailable
from partyline.interfaces import Fenced, Outcome, Refused, Stored
from partyline.models import Draft, Message

_MOST: Final = 1_000  # messages in one batch, JetStream's limit
_HEAD: Final = 512  # bytes that headers take at most
_PIECE: Final = 1_000
_MAX_BYTES: Final = 4 * 1024 * 1024
_AGAIN: Final = 0.003  # seconds until a batch that met another one is tried again
_OTHER: Final = 10071  # the sequence of a subject is not the one that was named
_REPEATED: Final = (10201, 10158)  # an id is known already
_CROSSED: Final = (10164, 10210)  # another node's batch is under way
_LOST: Final = 10176  # the batch is not whole: the stream has another leader by now


class Fresh(msgspec.Struct):
    """A draft on its way into the log."""

    draft: Draft
    subject: bytes
    identity: str
    content: str
    data: bytes


@dataclass(slots=True)
class Known:
    """Where a message is, or (0) that it is in the batch under way; `mine` if this append put it there."""

    offset: int
    time: float
    content: str
    mine: bool
    message: Message | None = None


class Placing:
    """One append: what is known of its drafts so far."""

    def __init__(
        self,
        stream: Stream,
        subjects: Subjects,
        fence: int,
        after: int,
        now: float,
        groups: Sequence[Sequence[Draft]],
        window: int,
    ) -> None:
        """`after` is an offset that none of the drafts can be at or below if this node has tried before."""
        self.newest = 0  # the highest offset that was given
        self._stream = stream
        self._subjects = subjects
        self._fence = fence
        self._after = after
        self._time = round(now * 1e6)
        self._groups = groups
        self._window = window
        self._known: dict[str, Known] = {}
        self._refused: dict[int, PartylineError] = {}  # by the number of the group
        self._fresh: list[list[Fresh]] = []
        for number, group in enumerate(groups):
            try:
                self._fresh.append([self._prepared(draft) for draft in group])
            except PartylineError as error:
                self._refused[number] = error
                self._fresh.append([])

    @property
    def rooms(self) -> set[bytes]:
        """The subjects of all rooms that something is put into."""
        return {fresh.subject for group in self._fresh for fresh in group}

    def refuse(self, rooms: set[bytes], error: PartylineError) -> None:
        """Refuse the groups that put something into one of these rooms."""
        for number, group in enumerate(self._fresh):
            if any(fresh.subject in rooms for fresh in group):
                self._refused[number] = error

    async def run(self) -> Sequence[Outcome]:
        """Put them there. Raises StoreUnavailable, and Fenced."""
        at = 0
        while at < len(self._groups):
            batch, until = self._next(at)
            try:
                if batch:
                    await self._put(batch)
                at = until
            except Declined as error:
                self._forget(batch)
                if error.number == _OTHER:
                    await self._check_fence()
                    await self._look_up(batch)
                elif error.number in _REPEATED:
                    await self._find(batch)
                elif error.number in _CROSSED:
                    await asyncio.sleep(_AGAIN)
                elif error.number == _LOST:
                    raise
                else:
                    refusal = StoreUnavailable(f"NATS cannot write now: {error.message}")
                    for number in range(at, until):
                        self._refused.setdefault(number, refusal)
                    at = until
        return [outcome for number in range(len(self._groups)) for outcome in await self._outcomes(number)]

    def _prepared(self, draft: Draft) -> Fresh:
        try:
            subject = self._subjects.room(draft.room)
            fresh = Fresh(
                draft,
                subject,
                identity(draft),
                content(draft) if draft.chosen_id else "",
                written(draft, self._time),
            )
        except UnicodeEncodeError:
            raise InvalidValue("an id, user, key or sender holds half a character (a lone surrogate)") from None
        most = self._stream.line.largest - _HEAD
        if len(fresh.data) > most:
            raise PayloadTooLarge(
                f"the message has {len(fresh.data)} bytes, and NATS takes {most} (max_payload there)",
                limit="max_nats_payload",
            )
        return fresh

    def _next(self, at: int) -> tuple[list[Fresh], int]:
        """The next groups that fit into one batch, what of them is not in the log, and where they end."""
        batch: list[Fresh] = []
        count = 0
        number = at
        while number < len(self._groups):
            if number not in self._refused:
                new = self._new(number)
                size = sum(1 + fresh.draft.chosen_id for fresh in new)
                if size > _MOST:
                    self._refused[number] = InvalidValue(
                        f"{len(new)} messages with ids of their own are too many for one batch on a log in NATS: send "
                        f"{_MOST // 2} at a time",
                        code="batch_size",
                        field="messages",
                    )
                elif count + size > _MOST:
                    break
                elif number not in self._refused:
                    for fresh in new:
                        self._known[fresh.identity] = Known(0, self._time / 1e6, fresh.content, True)
                    batch += new
                    count += size
            number += 1
        return batch, number

    def _new(self, number: int) -> list[Fresh]:
        """The drafts of a group that are not known yet; the group is refused if one has the id of another message."""
        new: dict[str, Fresh] = {}
        for fresh in self._fresh[number]:
            known = self._known.get(fresh.identity)
            other = known.content if known is not None else new.setdefault(fresh.identity, fresh).content
            if other != fresh.content:
                error = fresh.draft.conflict(Draft(fresh.draft.room, fresh.draft.data + b" ", fresh.draft.id))
                assert error is not None
                self._refused[number] = error
                return []
        return list(new.values())

    def _forget(self, batch: Sequence[Fresh]) -> None:
        for fresh in batch:
            self._known.pop(fresh.identity, None)

    # Writing

    async def _put(self, batch: Sequence[Fresh]) -> None:
        """Keep a batch. Raises StoreUnavailable, and Declined."""
        if len(batch) == 1 and not batch[0].draft.chosen_id:
            answer = await self._stream.publish(batch[0].subject, batch[0].data, self._checks(batch[0], first=True))
            if answer.get("duplicate"):
                self._known[batch[0].identity] = Known(answer["seq"], self._time / 1e6, batch[0].content, False)
                return
        else:
            answer = await self._put_together(batch)
        offset = answer["seq"]
        if offset <= self._after:
            raise StoreUnavailable("the stream has lost its end")
        self.newest = max(self.newest, offset)
        for fresh in reversed(batch):
            self._known[fresh.identity].offset = offset
            offset -= 1 + fresh.draft.chosen_id

    async def _put_together(self, batch: Sequence[Fresh]) -> dict[str, int]:
        done: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()

        def begun(arrived: Arrived) -> None:  # an empty acknowledgement, or what is wrong
            if arrived.data or arrived.head:
                ended(arrived)

        def ended(arrived: Arrived) -> None:
            if not done.done():
                done.set_result(arrived)

        line = self._stream.line
        beginning, end = line.inbox(begun), line.inbox(ended)
        name = secrets.token_hex(8).encode()
        count = sum(1 + fresh.draft.chosen_id for fresh in batch)
        number = 0
        try:
            for place, fresh in enumerate(batch):
                if fresh.draft.chosen_id:
                    number += 1
                    head = (
                        b"Nats-Batch-Id:%b\r\nNats-Batch-Sequence:%d\r\nNats-Expected-Last-Subject-Sequence:0\r\n"
                        b"Nats-TTL:%d\r\n" % (name, number, self._window)
                    )
                    record = msgspec.json.encode((self._time, fresh.content))
                    line.publish(self._subjects.id(fresh.identity), record, beginning if number == 1 else b"", head)
                number += 1
                head = b"Nats-Batch-Id:%b\r\nNats-Batch-Sequence:%d\r\n" % (name, number)
                head += self._checks(fresh, first=place == 0)
                reply = b""
                if number == count:
                    head += b"Nats-Batch-Commit:1\r\n"
                    reply = end
                elif number == 1:
                    reply = beginning
                line.publish(fresh.subject, fresh.data, reply, head)
            if not line.up:
                raise StoreUnavailable("the connection to NATS is lost")
            return acknowledged(await done)
        finally:
            line.forget(beginning)
            line.forget(end)

    def _checks(self, fresh: Fresh, *, first: bool) -> bytes:
        head = b"" if fresh.draft.chosen_id else b"Nats-Msg-Id:%b\r\n" % fresh.identity.encode()
        if first:
            head += b"Nats-Expected-Last-Subject-Sequence:%d\r\nNats-Expected-Last-Subject-Sequence-Subject:%b\r\n" % (
                self._fence,
                self._subjects.epoch.encode(),
            )
        return head

    # What is there already

    async def _check_fence(self) -> None:
        epoch = await self._stream.last(self._subjects.epoch)
        if epoch is None or epoch.sequence != self._fence:
            raise Fenced

    async def _look_up(self, batch: Sequence[Fresh]) -> None:
        """Find the messages whose ids are recorded. There is at least one, unless a replica is late."""
        wanted = {self._subjects.id(fresh.identity): fresh for fresh in batch if fresh.draft.chosen_id}
        found: list[Kept] = []
        while wanted:
            some = await self._stream.lasts([subject.decode() for subject in wanted])
            found += some.kept
            if not some.pending or not some.kept:
                break
            for kept in some.kept:
                wanted.pop(kept.subject, None)
        for kept in found:
            time, hashed = msgspec.json.decode(kept.data, type=tuple[int, str])
            name = kept.subject.rpartition(b".")[2].decode()
            self._known[name] = Known(kept.sequence + 1, time / 1e6, hashed, False)
        if not found:
            await asyncio.sleep(_AGAIN)

    async def _find(self, batch: Sequence[Fresh]) -> None:
        """Find the messages that this node has put there before, in a try whose outcome it did not learn."""
        wanted = {fresh.draft.identity: fresh for fresh in batch if not fresh.draft.chosen_id}
        at, pending = self._after, 1
        while pending and wanted:
            some = await self._stream.after(at, self._subjects.rooms, _PIECE, _MAX_BYTES)
            for kept in some.kept:
                there = message(kept)
                if (fresh := wanted.pop(there.draft.identity, None)) is not None:
                    self._known[fresh.identity] = Known(kept.sequence, there.time, fresh.content, False)
                at = kept.sequence
            pending = some.pending if some.kept else 0
        if wanted:
            await asyncio.sleep(_AGAIN)

    # Answers

    async def _outcomes(self, number: int) -> list[Outcome]:
        group = self._groups[number]
        if (error := self._refused.get(number)) is not None:
            return [Refused(draft, error) for draft in group]
        outcomes: list[Outcome] = []
        for fresh in self._fresh[number]:
            known = self._known[fresh.identity]
            first = known.mine and known.message is None
            if first:
                known.message = Message(fresh.draft, known.offset, known.time)
            elif known.message is None:
                kept = await self._stream.at(known.offset)
                # Retention may have taken the message, but not its id.
                known.message = Message(fresh.draft, known.offset, known.time) if kept is None else message(kept)
            outcomes.append(Stored(fresh.draft, known.message, duplicate=not first))
        return outcomes
