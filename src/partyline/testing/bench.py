"""A store under test, and everything that it hands out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Final

from partyline.errors import StoreUnavailable
from partyline.interfaces import NEWS, News, Outcome, Refused, Store, Stored, View
from partyline.models import Draft, Message

LONG: Final = 20.0  # seconds: nothing here takes so long
_TRIES: Final = 200  # of one draft, on a store that refuses for a while


def unavailable(outcome: Outcome) -> bool:
    """Whether a draft was refused because the store cannot take any now."""
    return isinstance(outcome, Refused) and isinstance(outcome.error, StoreUnavailable)


class Bench:
    """A started store, a clock that is moved by hand, and everything the store ever handed out."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.now = 1_000_000.0
        self.store: Store
        self.outcomes: list[Outcome | News] = []
        self.batches: list[list[Outcome | News]] = []
        self.threads: set[int] = set()
        self._news = asyncio.Event()
        self._serial = 0

    def start(self, store: Store) -> None:
        self.store = store
        store.start(self._committed)

    def _committed(self, batch: Sequence[Outcome | News]) -> None:
        self.batches.append(list(batch))
        self.outcomes += batch
        self.threads.add(threading.get_ident())
        self._news.set()

    @property
    def answers(self) -> list[Outcome]:
        """The answers to appends: everything except messages found after a failure."""
        return [outcome for outcome in self.outcomes if not isinstance(outcome, NEWS)]

    def draft(self, room: str = "cats", data: bytes = b"1", message_id: str | None = None, **rest: object) -> Draft:
        """A draft, with a unique id if none is given."""
        self._serial += 1
        return Draft(room, data, message_id or f"id{self.name}{self._serial}", **rest)  # type: ignore[arg-type]

    async def answered(self, count: int) -> list[Outcome]:
        """The answers, once there are `count`."""
        async with asyncio.timeout(LONG):
            while len(self.answers) < count:
                await self.news()
        return self.answers

    async def news(self) -> None:
        """Return when something is handed out."""
        self._news.clear()
        await self._news.wait()

    @property
    def fanned_out(self) -> list[tuple[int, str]]:
        """The messages handed out, each with its offset and id."""
        return [
            (outcome.message.offset or 0, outcome.message.draft.id)
            for outcome in self.outcomes
            if isinstance(outcome, Stored) and not outcome.duplicate
        ]

    @property
    def reached(self) -> int:
        """The highest offset handed out."""
        return max((offset for offset, _ in self.fanned_out), default=0)

    async def append(self, *drafts: Draft) -> list[Outcome]:
        """Append together; their outcomes."""
        before = len(self.answers)
        self.store.append(*drafts)
        return (await self.answered(before + len(drafts)))[before:]

    async def take(self, *drafts: Draft) -> list[Outcome]:
        """As `append`, but repeated with the same ids while the store is unavailable, as a publisher would."""
        for _ in range(_TRIES):
            outcomes = await self.append(*drafts)
            if not any(unavailable(outcome) for outcome in outcomes):
                return outcomes
            await asyncio.sleep(0)
        raise AssertionError("the store was unavailable for ever")

    async def keep(self, *drafts: Draft) -> list[int]:
        """Take drafts that must be stored; their offsets."""
        offsets = []
        for outcome in await self.take(*drafts):
            assert isinstance(outcome, Stored), f"{outcome} was to be stored"
            assert outcome.message.offset is not None
            offsets.append(outcome.message.offset)
        return offsets

    async def walk(self, view: View, limit: int = 100, after: int = 0) -> list[Message]:
        """All of a view, page by page."""
        found: list[Message] = []
        for _ in range(10_000):
            page = await self.store.read(view, after, limit)
            assert len(page.messages) <= limit
            assert page.next > after or not page.more, "every page gets further"
            offsets = [message.offset or 0 for message in page.messages]
            assert offsets == sorted(set(offsets)), "a page is in order, without doubles"
            assert all(after < offset <= page.next for offset in offsets)
            found += page.messages
            after = page.next
            if not page.more:
                return found
        raise AssertionError("the last page never came")
