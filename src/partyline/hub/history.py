"""Resuming from a position: catch up with the log, then go on live, without a hole and without a double.

A subscription that catches up is in no room. It reads pages until it has reached the hub's *fanned-out* head (not the
committed one: what is committed and not fanned out yet would come again, live), and joins its rooms in that same turn
of the loop. So nothing live is queued while it catches up, and no offset is offered twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from partyline import log
from partyline.hub.hub import Hub
from partyline.interfaces import Store, View
from partyline.models import Message, Position

_log = log.get("hub")

PAGE = 256  # messages read at a time


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
    oldest = Position(store.epoch, probe.oldest - 1)
    if after is None:
        return Start(oldest, recovered=True)
    head = Position(store.epoch, hub.fanned_out)
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

    `deliver` returns when there is room for the next message: catching up waits for the outbox, and no page is larger
    in memory than its messages. Raises Gap where retention overtook the reader. Cancelled, it has not attached.
    """
    at = after
    while at < hub.fanned_out:
        page = await store.read(view, at, PAGE)
        if page.oldest > at + 1:
            raise Gap(page.oldest, at)
        reached = hub.fanned_out
        for message in page.messages:
            assert message.offset is not None
            if message.offset <= reached:
                await deliver(message)
        at = min(page.next, reached)
    attach()
