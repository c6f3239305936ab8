"""Resuming from a position: catch up with the log, then go on live, without a hole or a double.

A subscription that catches up is in no room. It reads pages until it has reached the hub's *fanned-out* head (not the
committed one: what is committed but not fanned out yet would come again, live), and joins its rooms in that same turn
of the loop. So nothing live is queued while it catches up, and no offset is offered twice.

There is one policy for a gap (decision 0023): the subscriber is told, and goes on from the oldest message of its view
that is still kept. Only a position that is not in this log at all, of another epoch or ahead of it, goes on from now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from partyline import log
from partyline.hub.hub import Hub
from partyline.interfaces import Follows, Store, View
from partyline.models import Message, Page, Position

_log = log.get("hub")

PAGE = 256  # messages read at a time
_HELD: Final = 256  # messages that may wait for a newer one of their key
_HELD_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscriber begins, or goes on after a gap. `oldest` is set where `recovered` is False: from there on
    nothing of its view is missing."""

    position: Position
    recovered: bool
    oldest: Position | None = None


class Sink(Protocol):
    """A subscriber while it catches up. An exception of a method ends that, and the subscriber is not attached."""

    def began(self, start: Start) -> None:
        """Where it begins. Called once, before anything else."""

    async def deliver(self, message: Message) -> None:
        """Take the next message of its view. Returns when there is room for another: no page waits in memory."""

    def gap(self, start: Start) -> None:
        """The next message has been pruned meanwhile: it goes on from `start`."""

    def attach(self) -> None:
        """Nothing is missing now: join its rooms before this returns."""


async def resume(hub: Hub, store: Store, view: View, after: Position | None, sink: Sink) -> None:
    """Give `sink` everything that `view` sees after a position, then go on live; None stands for the oldest kept.

    If cancelled, it has not attached. Raises StoreUnavailable, and whatever the sink raises.
    """
    start = await find_start(hub, store, view, after)
    sink.began(start)
    told = 0 if start.oldest is None else start.oldest.offset
    await catch_up(hub, store, view, start.position.offset, sink, told=told)


async def find_start(hub: Hub, store: Store, view: View, after: Position | None) -> Start:
    """Where a subscriber to `view` that has everything up to `after` begins; None stands for the oldest kept.

    An unknown epoch, a position pruned away and one ahead of the log are not recovered (guarantee 3). A position that
    is committed but not fanned out yet is ahead, too: nobody was told of it. If other nodes use the log, somebody may
    have been told there: this node catches up with the position first.
    """
    if (
        after is not None
        and after.offset > hub.fanned_out
        and after.epoch == store.epoch
        and isinstance(store, Follows)
    ):
        await store.reach(after.offset)  # another node may be ahead of this one
        await hub.passed()
    probe = await store.read(view, store.head, 1)
    head = Position(store.epoch, hub.fanned_out)
    # What is not fanned out yet comes live, though retention may have taken it from the log already.
    oldest = Position(store.epoch, min(probe.oldest - 1, head.offset))
    if after is None:
        return Start(oldest, recovered=True)
    if after.epoch != store.epoch:
        return Start(head, recovered=False, oldest=oldest)
    if after.offset > hub.fanned_out:
        if after.offset > store.head:
            _log.warning("a subscriber is ahead of the log: it was rolled back", position=str(after), head=str(head))
        return Start(head, recovered=False, oldest=oldest)
    if after.offset >= oldest.offset:
        return Start(after, recovered=True)
    page = await store.read(view, after.offset, 1)
    return Start(Position(store.epoch, min(_before(page), oldest.offset)), recovered=False, oldest=oldest)


def _before(page: Page) -> int:
    """The offset before the first message of a page; for an empty page, the offset up to which it has looked."""
    return cast("int", page.messages[0].offset) - 1 if page.messages else page.next


async def catch_up(hub: Hub, store: Store, view: View, after: int, sink: Sink, *, told: int = 0) -> None:
    """The second half of `resume`, for a subscriber whose start is known. It has been told already that messages up
    to offset `told` are missing.

    In a room that conflates, only the newest of each key among the next few hundred messages comes (guarantee 5). The
    log stays whole, and the very newest comes in any case.
    """
    at = after
    newest = _Newest(hub)
    while at < hub.fanned_out:
        page = await store.read(view, at, PAGE)
        if page.oldest - 1 > max(at, told):
            for message in newest.rest():
                await sink.deliver(message)
            told = page.oldest - 1
            goes_on = Position(store.epoch, min(_before(page), told, hub.fanned_out))
            sink.gap(Start(goes_on, recovered=False, oldest=Position(store.epoch, told)))
        reached = hub.fanned_out
        for message in page.messages:
            if cast("int", message.offset) <= reached:
                for due in newest.put(message):
                    await sink.deliver(due)
        at = min(page.next, reached)
        if at >= hub.fanned_out:
            for message in newest.rest():
                await sink.deliver(message)  # whatever is fanned out meanwhile comes with the next page
    sink.attach()


class _Newest:
    """Messages in their order. One that conflates waits for a newer one of its room and key to take its place."""

    __slots__ = ("_held", "_hub", "_size")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held: dict[int | tuple[str, str | None], Message] = {}
        self._size = 0

    def put(self, message: Message) -> Sequence[Message]:
        """Add a message; returns those that need not wait any longer."""
        conflates = self._hub.conflates(message.room)
        if not conflates and not self._held:
            return (message,)
        place = (message.room, message.draft.key) if conflates else cast("int", message.offset)
        if place in self._held:
            self._take(place)
        self._held[place] = message  # at the end, even if an older one had an earlier place
        self._size += len(message.draft.data)
        due: list[Message] = []
        while self._held:
            first = next(iter(self._held))
            if isinstance(first, tuple) and len(self._held) <= _HELD and self._size <= _HELD_BYTES:
                break
            due.append(self._take(first))
        return due

    def rest(self) -> Sequence[Message]:
        """All that still wait."""
        held, self._held, self._size = tuple(self._held.values()), {}, 0
        return held

    def _take(self, place: int | tuple[str, str | None]) -> Message:
        message = self._held.pop(place)
        self._size -= len(message.draft.data)
        return message
