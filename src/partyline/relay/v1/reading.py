"""What a v1 client may ask of the log: positions, and pages of history."""

from __future__ import annotations

from typing import Final, cast

from partyline.errors import InvalidValue
from partyline.hub.history import find_start
from partyline.hub.hub import Hub
from partyline.interfaces import Store, View
from partyline.models import Position
from partyline.relay.values import HistoryPage
from partyline.wire.relay import entry

MAX_PAGE: Final = 1_000


def parse_after(text: str | None) -> Position | str:
    """A position, or the words earliest and latest; None is latest. Raises InvalidValue."""
    if text is None or text == "latest":
        return "latest"
    return text if text == "earliest" else Position.parse(text)


def check_limit(limit: int) -> int:
    """The size of a page of history. Raises InvalidValue."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidValue(f"limit: {limit} is not between 1 and {MAX_PAGE}", field="limit")
    return limit


async def history_page(
    hub: Hub, store: Store, topic: str, user: str | None, after: Position | str, limit: int
) -> HistoryPage:
    """A page of one topic's history, as a user sees it. Raises StoreUnavailable."""
    view = View(frozenset((topic,)), user=user)
    position = after if isinstance(after, Position) else None
    if after == "latest":
        position = Position(store.epoch, hub.fanned_out)
    start = await find_start(hub, store, view, position)
    at = start.position.offset if start.recovered else (start.oldest or start.position).offset
    page = await store.read(view, at, limit)
    # Not beyond the fanned-out head: a client that resumed from such a position would get messages again, live.
    reached = hub.fanned_out
    return HistoryPage(
        topic,
        [entry(one, store.epoch) for one in page.messages if cast("int", one.offset) <= reached],
        f"{store.epoch}-{min(page.next, reached)}",
        page.more or page.next > reached,
        start.recovered,
    )
