"""Resuming from a position: catch up with the log, then go on live, without a hole and without a double.

A subscription that catches up is in no room. It reads pages until it has reached the hub's *fanned-out* head (not the
committed one: what is committed and not fanned out yet would come again, live), and joins its rooms in that same turn
of the loop. So nothing live is queued while it catches up, and no offset is offered twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from partyline import log
from partyline.hub.hub import Hub
from partyline.interfaces import Store, View
from partyline.models import Message, Position

_log = log.get("hub")

PAGE = 256  # messages read at a time
_HELD: Final = 256  # messages that may wait for a newer one of their key, and their bytes
_HELD_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins. `oldest` is set where `recovered` is False: the oldest position still kept."""

    position: Position
    recovered: bool
    oldest: Position | None = None


class Gap(Exception):
    """What was to come next was pruned while catching up.

    `oldest` is the lowest offset still kept of the view, `reached` the one up to which everything was delivered.
    """

    def __init__(self, oldest: int, reached: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest
        self.reached = reached


async def find_start(hub: Hub, store: Store, view: View, after: Position | None) -> Start:
    """Whether everything of `view` behind `after` is still there; None stands for the oldest kept.

    An unknown epoch, a position pruned away and one ahead of the log are not recovered (guarantee 3). Ahead is also
    what is committed and not fanned out yet: nobody was told of it, and its fan-out is still to come.
    """
    probe = await store.read(view, store.head, 1)
    head = Position(store.epoch, hub.fanned_out)
    # What is not fanned out yet comes live, though retention may have taken it from the log already.
    oldest = Position(store.epoch, min(probe.oldest - 1, head.offset))
    if after is None:
        return Start(oldest, recovered=True)
    if after.epoch == store.epoch and after.offset > store.head:
        _log.warning("a subscriber is ahead of the log: it was rolled back", position=str(after), head=str(head))
    elif after.epoch == store.epoch and oldest.offset <= after.offset <= hub.fanned_out:
        return Start(after, recovered=True)
    return Start(head, recovered=False, oldest=oldest)


async def catch_up(
    hub: Hub,
    store: Store,
    view: View,
    after: int,
    *,
    deliver: Callable[[Message], Awaitable[None]],
    attach: Callable[[], None],
) -> None:
    """Deliver what `view` sees behind offset `after`, then `attach` in the turn in which nothing is missing.

    Of a room that conflates, only the newest message of each key that is among the next few hundred comes (guarantee
    5): the log stays whole, and the newest of all comes in any case.
    `deliver` returns when there is room for the next message: catching up waits for the outbox, and no page is larger
    in memory than its messages. Raises Gap where retention overtook the reader. Cancelled, it has not attached.
    """
    at = after
    newest = _Newest(hub)
    while at < hub.fanned_out:
        page = await store.read(view, at, PAGE)
        if page.oldest > at + 1:
            for message in newest.rest():
                await deliver(message)
            raise Gap(page.oldest, at)
        reached = hub.fanned_out
        for message in page.messages:
            assert message.offset is not None
            if message.offset <= reached:
                for due in newest.put(message):
                    await deliver(due)
        at = min(page.next, reached)
        if at >= hub.fanned_out:
            for message in newest.rest():
                await deliver(message)  # and what is fanned out meanwhile is the next page
    attach()


class _Newest:
    """Messages in their order, of which one that conflates waits for a newer one of its room and key to take over."""

    __slots__ = ("_held", "_hub", "_size")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held: dict[int | tuple[str, str | None], Message] = {}
        self._size = 0

    def put(self, message: Message) -> Sequence[Message]:
        """Add a message; those that need not wait any longer."""
        conflates = self._hub.conflates(message.room)
        if not conflates and not self._held:
            return (message,)
        place = (message.room, message.draft.key) if conflates else cast("int", message.offset)
        if place in self._held:
            self._take(place)
        self._held[place] = message  # at the end, though an older one stood before
        self._size += len(message.draft.data)
        due: list[Message] = []
        while self._held:
            first = next(iter(self._held))
            if isinstance(first, tuple) and len(self._held) <= _HELD and self._size <= _HELD_BYTES:
                break
            due.append(self._take(first))
        return due

    def rest(self) -> Sequence[Message]:
        """All that waits."""
        held, self._held, self._size = tuple(self._held.values()), {}, 0
        return held

    def _take(self, place: int | tuple[str, str | None]) -> Message:
        message = self._held.pop(place)
        self._size -= len(message.draft.data)
        return message
