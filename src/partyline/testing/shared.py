"""The promises of every Store on a log that other nodes write to, as checks to run on two stores on one log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from partyline.errors import Conflict
from partyline.interfaces import Follows, Found, Refused, Store, Stored, View
from partyline.models import Draft
from partyline.testing.bench import LONG, Bench
from partyline.testing.promises import promises, run_all

MakeTwo = Callable[[Callable[[], float]], AbstractAsyncContextManager[tuple[Store, Store]]]
"""Opens two stores on one empty log for one check, not started, as `Make` opens one."""

Check = Callable[["Pair"], Awaitable[None]]


class Pair:
    """Two nodes on one log, and what each of them has handed out."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.here, self.there = Bench("a"), Bench("b")

    async def level(self, *benches: Bench) -> None:
        """Return when each node has handed out everything that any of them has."""
        benches = benches or (self.here, self.there)
        head = max(bench.reached for bench in benches)
        async with asyncio.timeout(LONG):
            for bench in benches:
                while bench.reached < head:
                    await bench.news()


async def check_shared_store(make: MakeTwo) -> None:
    """Run every check of SHARED_CHECKS on a log of its own. Raises AssertionError, naming the check that failed."""
    await run_all(SHARED_CHECKS, lambda check: run_shared_check(check, make))


async def run_shared_check(check: Check, make: MakeTwo) -> None:
    """Run one check on a fresh log."""
    pair = Pair()
    async with make(lambda: pair.now) as (here, there):
        pair.here.start(here)
        pair.there.start(there)
        await check(pair)
        await pair.level()
        for bench in (pair.here, pair.there):
            _fanned_out_before_answered(bench)
        assert pair.here.fanned_out == pair.there.fanned_out, "both nodes see the same messages in the same order"


def _fanned_out_before_answered(bench: Bench) -> None:
    """Offsets handed out strictly increase, and a duplicate is answered only after its message was handed out."""
    reached = 0
    for outcome in bench.outcomes:
        if not isinstance(outcome, Stored):
            continue
        offset = outcome.message.offset or 0
        if outcome.duplicate:
            assert offset <= reached, "a duplicate was answered before its message was handed out"
        else:
            assert offset > reached, "offsets strictly increase over own and others' messages"
            reached = offset


# The checks


async def _one_log(pair: Pair) -> None:
    """Both nodes have the epoch, the durability and the order of one log."""
    assert pair.here.store.epoch == pair.there.store.epoch
    assert pair.here.store.durability is pair.there.store.durability
    (first,) = await pair.here.keep(pair.here.draft())
    (second,) = await pair.there.keep(pair.there.draft())
    assert 0 < first < second


async def _found_elsewhere(pair: Pair) -> None:
    """What one node appends is the answer there, and found at the other one, as it was handed in."""
    draft = pair.here.draft("cats", b'{"a":1}', user="7", key="k", sender="s", ttl=60.0, publisher="p")
    await pair.here.keep(draft)
    await pair.level()
    (found,) = pair.there.outcomes
    assert isinstance(found, Found)
    assert found.message.draft == draft
    assert not any(isinstance(outcome, Found) for outcome in pair.here.outcomes)


async def _both_at_once(pair: Pair) -> None:
    """Two nodes that append at the same time, one and many together, have one order, each message once."""

    async def publish(bench: Bench) -> None:
        for turn in range(40):
            bench.store.append(*(bench.draft(f"room{turn % 3}") for _ in range(1 + turn % 4)))
            if turn % 5 == 0:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for bench in (pair.here, pair.there):
            group.create_task(publish(bench))
    for bench in (pair.here, pair.there):
        answers = await bench.answered(100)
        assert all(isinstance(outcome, Stored) for outcome in answers)
    await pair.level()
    assert len(pair.here.fanned_out) == 200


async def _retried_elsewhere(pair: Pair) -> None:
    """A publish that is repeated on the other node is stored once, and answered there when it has been handed out."""
    draft = pair.here.draft(message_id="x", publisher="p")
    (offset,) = await pair.here.keep(draft)
    (again,) = await pair.there.append(draft)
    assert isinstance(again, Stored)
    assert again.duplicate
    assert again.message.offset == offset
    other = Draft("cats", b"2", "x", publisher="p")
    (refused,) = await pair.there.append(other)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, Conflict)


async def _racing_nodes(pair: Pair) -> None:
    """Of one message that both nodes append together one is stored, and both answer with its offset."""
    drafts = [pair.here.draft(message_id=f"x{number}") for number in range(20)]
    for draft in drafts:
        pair.here.store.append(draft)
        pair.there.store.append(draft)
    here, there = await pair.here.answered(20), await pair.there.answered(20)
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, Stored)
        assert isinstance(other, Stored)
        assert one.message.offset == other.message.offset
        assert one.duplicate or other.duplicate
    await pair.level()
    assert len(pair.here.fanned_out) == 20


async def _readable_everywhere(pair: Pair) -> None:
    """What was handed out on one node can be read on the other one, whether or not it was handed out there."""
    for number in range(10):
        (offset,) = await pair.here.keep(pair.here.draft(data=b"%d" % number))
        page = await pair.there.store.read(View(frozenset(("cats",))), offset - 1, 10)
        assert [message.offset for message in page.messages] == [offset]
        (newest,) = await pair.there.store.newest("cats", offset + 1, 1)
        assert newest.offset == offset


async def _reaching(pair: Pair) -> None:
    """A node that is asked for a position that the other one has told gets there; beyond the log nobody gets."""
    assert isinstance(pair.there.store, Follows)
    for _ in range(10):
        (offset,) = await pair.here.keep(pair.here.draft())
        async with asyncio.timeout(LONG):
            assert await pair.there.store.reach(offset)
        assert pair.there.reached >= offset
    assert not await pair.there.store.reach(offset + 1_000)


async def _one_goes(pair: Pair) -> None:
    """A node that goes takes nothing along: what it had accepted is handed out by the other one, which goes on."""
    for _ in range(20):
        pair.here.store.append(pair.here.draft())
    await pair.here.store.close()
    accepted = [outcome for outcome in await pair.here.answered(20) if isinstance(outcome, Stored)]
    await pair.there.keep(pair.there.draft())
    assert {one.message.offset for one in accepted} <= {offset for offset, _ in pair.there.fanned_out}
    pair.here.outcomes = list(pair.there.outcomes)  # it has gone, and is not compared


SHARED_CHECKS: Final[dict[str, Check]] = promises(
    _one_log,
    _found_elsewhere,
    _both_at_once,
    _retried_elsewhere,
    _racing_nodes,
    _readable_everywhere,
    _reaching,
    _one_goes,
)
"""Every promise of two Stores on one log as a sentence, with its check."""
