"""Two nodes on one log: the suite of `partyline.testing` on a log in memory, and what happens when it cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from partyline.errors import StoreUnavailable
from partyline.interfaces import Durability, Found, Outcome, Overrun, Refused, Renewed, Store, Stored, Stretch
from partyline.models import Draft, Message
from partyline.stores.shared import SharedStore
from partyline.testing import SHARED_CHECKS, MemoryLog, check_shared_store
from partyline.testing.bench import Bench
from partyline.testing.memory_log import MemoryHandle
from partyline.testing.shared import MakeTwo, run_shared_check


class Dawdling(MemoryHandle):
    """A way to the log on which everything takes its time."""

    def __init__(self, log: MemoryLog, chance: random.Random) -> None:
        super().__init__(log)
        self._chance = chance

    async def before(self, what: str) -> None:
        for _ in range(self._chance.choice((0, 1, 1, 7))):
            await asyncio.sleep(0)
        await super().before(what)

    async def after(self, what: str) -> None:
        for _ in range(self._chance.choice((0, 1, 1, 7))):
            await asyncio.sleep(0)
        await super().after(what)


@contextlib.asynccontextmanager
async def two(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
    log = MemoryLog(clock=clock)
    here, there = await SharedStore.open(log.handle()), await SharedStore.open(log.handle())
    yield here, there
    await asyncio.gather(here.close(), there.close())


def dawdling(seed: int) -> MakeTwo:
    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
        log, chance = MemoryLog(clock=clock), random.Random(seed)
        here, there = [await SharedStore.open(Dawdling(log, chance)) for _ in range(2)]
        yield here, there
        await asyncio.gather(here.close(), there.close())

    return make


@pytest.mark.parametrize("promise", SHARED_CHECKS)
def test_two_nodes_keep(promise: str) -> None:
    """Each promise about two nodes on one log is kept by the store for shared logs."""
    asyncio.run(run_shared_check(SHARED_CHECKS[promise], two))


@pytest.mark.parametrize("seed", range(10))
def test_two_nodes_with_a_slow_way_keep_them_too(seed: int) -> None:
    """However long appends and reads take on their way, no promise is broken."""
    asyncio.run(check_shared_store(dawdling(seed)))


class EagerStore(SharedStore):
    """Answers as soon as the log has answered, whether or not the tail has been there."""

    def _answers(self) -> list[Outcome]:
        ready, self._placed = list(self._placed), type(self._placed)()
        return ready


class SkippingStore(SharedStore):
    """Of several messages of others that the tail brings together, it hands out the last one."""

    def _pass_on(self, messages: Sequence[Message]) -> None:
        own = {outcome.message.offset for outcome in self._placed if isinstance(outcome, Stored)}
        super()._pass_on([one for one in messages if one.offset in own or one is messages[-1]])


@pytest.mark.parametrize("mutant", [EagerStore, SkippingStore])
def test_a_broken_store_is_found(mutant: type[SharedStore]) -> None:
    """The suite finds a store that answers before it fans out, and one that skips messages of the other nodes."""

    @contextlib.asynccontextmanager
    async def broken(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
        log = MemoryLog(clock=clock)
        stores = [await mutant.open(log.handle()) for _ in range(2)]
        yield stores[0], stores[1]

    with pytest.raises(AssertionError) as caught:
        asyncio.run(check_shared_store(broken))
    assert any("the promise: " in note for note in caught.value.__notes__)


# When the log cannot be had


class Nodes:
    """A log, and nodes on it that lose patience soon."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.handles: list[MemoryHandle] = []
        self.benches: list[Bench] = []

    async def node(self, *, patience: float = 0.05, kind: type[MemoryHandle] = MemoryHandle) -> Bench:
        """One more node."""
        handle = kind(self.log)
        bench = Bench(f"n{len(self.benches)}.")
        bench.start(await SharedStore.open(handle, patience=patience))
        self.handles.append(handle)
        self.benches.append(bench)
        return bench

    async def close(self) -> None:
        for handle in self.handles:
            handle.cut = handle.deaf = False
        await asyncio.gather(*(bench.store.close() for bench in self.benches))


def on_nodes(test: Callable[[Nodes], Awaitable[None]]) -> None:
    async def run() -> None:
        nodes = Nodes()
        async with asyncio.timeout(20):
            await test(nodes)
            await nodes.close()

    asyncio.run(run())


async def until(bench: Bench, true: Callable[[], bool]) -> None:
    while not true():
        await bench.news()


def test_an_append_of_unknown_outcome_is_settled_by_its_ids() -> None:
    """A message whose answer was lost with the connection is stored once, and answered as stored, not as a
    duplicate."""

    async def test(nodes: Nodes) -> None:
        node, other = await nodes.node(patience=2.0), await nodes.node(patience=2.0)
        nodes.handles[0].deaf = True
        drafts = [node.draft(), node.draft()]
        node.store.append(*drafts)
        await until(other, lambda: len(other.fanned_out) == 2)  # they are there, and nobody knows on the first node
        assert node.outcomes == []
        nodes.handles[0].deaf = False
        answers = await node.answered(2)
        assert [outcome.draft for outcome in answers] == drafts
        assert all(isinstance(outcome, Stored) and not outcome.duplicate for outcome in answers)
        assert len(nodes.log.records.messages) == 2
        assert node.fanned_out == other.fanned_out

    on_nodes(test)


def test_what_was_refused_and_is_there_is_found() -> None:
    """A log that stays away refuses what waits, in order, and brings what it had as found."""

    async def test(nodes: Nodes) -> None:
        node = await nodes.node()
        nodes.handles[0].deaf = True
        drafts = [node.draft() for _ in range(3)]
        for draft in drafts:
            node.store.append(draft)
        answers = await node.answered(3)
        assert [outcome.draft for outcome in answers] == drafts
        assert all(isinstance(outcome, Refused) and isinstance(outcome.error, StoreUnavailable) for outcome in answers)
        nodes.handles[0].deaf = False
        await until(node, lambda: len(node.fanned_out) == len(nodes.log.records.messages))
        assert all(isinstance(outcome, Found) for outcome in node.outcomes[3:])
        (known,) = await node.take(drafts[0])
        assert isinstance(known, Stored)

    on_nodes(test)


def test_a_log_that_is_away_refuses_at_once_and_heals() -> None:
    """While the log is away everything is refused at once; when it is back the node goes on where it was."""

    async def test(nodes: Nodes) -> None:
        node, other = await nodes.node(), await nodes.node()
        await node.keep(node.draft())
        nodes.handles[0].cut = True
        nodes.log.ring()
        (refused,) = await node.append(node.draft())
        assert isinstance(refused, Refused)
        assert node.store.refusal is not None
        missed = await other.keep(other.draft(), other.draft())
        nodes.handles[0].cut = False
        await until(node, lambda: node.reached == missed[-1])
        await node.keep(node.draft())
        assert node.store.refusal is None

    on_nodes(test)


def test_a_log_that_is_away_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """However often a node tries to reach the log, the operator is told once why it cannot, and once that it can."""

    async def test(nodes: Nodes) -> None:
        node = await nodes.node(patience=1.0)
        await node.keep(node.draft())
        tries = 0

        async def before(what: str) -> None:
            nonlocal tries
            tries += what == "connect"
            await MemoryHandle.before(handle, what)

        handle = nodes.handles[0]
        handle.before = before  # type: ignore[method-assign]
        handle.cut = True
        nodes.log.ring()
        async with asyncio.timeout(10):
            while tries < 3:
                await asyncio.sleep(0.01)
        handle.cut = False
        await node.keep(node.draft())

    with caplog.at_level("INFO"):
        on_nodes(test)
    assert caplog.text.count("the log cannot be reached") <= 2  # on the way there, and on the way back
    assert caplog.text.count("the log is there again") == 1


def test_a_log_that_does_not_answer_counts_as_away() -> None:
    """A log that takes a message and says nothing is given up after the patience, and nothing waits for ever."""

    class Hanging(MemoryHandle):
        hangs = False

        async def after(self, what: str) -> None:
            if self.hangs and what == "append":
                await asyncio.Event().wait()
            await super().after(what)

    async def test(nodes: Nodes) -> None:
        node = await nodes.node(kind=Hanging)
        Hanging.hangs = True
        (refused,) = await node.append(node.draft())
        assert isinstance(refused, Refused)
        Hanging.hangs = False
        await until(node, lambda: len(node.fanned_out) == 1)
        assert isinstance(node.outcomes[1], Found)

    on_nodes(test)


def test_a_log_that_lost_its_end_has_a_new_epoch() -> None:
    """Nodes that know more than the log has agree on one new epoch, and go on in it, each told once."""

    async def test(nodes: Nodes) -> None:
        benches = [await nodes.node() for _ in range(3)]
        for bench in benches:
            await bench.keep(bench.draft())
        for bench in benches:
            await until(bench, lambda bench=bench: bench.reached == 3)  # type: ignore[misc]
        before = nodes.log.epoch
        for handle in nodes.handles:
            handle.cut = True
        nodes.log.records.roll_back(1)
        nodes.log.ring()
        for bench in benches:
            (refused,) = await bench.append(bench.draft())
            assert isinstance(refused, Refused)
        for handle in nodes.handles:
            handle.cut = False
        for bench in benches:
            await until(bench, lambda bench=bench: any(isinstance(one, Renewed) for one in bench.outcomes))  # type: ignore[misc]
        assert {bench.store.epoch for bench in benches} == {nodes.log.epoch} != {before}
        for bench in benches:
            assert [one for one in bench.outcomes if isinstance(one, Renewed)] == [Renewed(nodes.log.epoch, 1)]
        (offset,) = await benches[0].keep(benches[0].draft("cats", b"2"))
        assert offset == 2
        for bench in benches:
            await until(bench, lambda bench=bench: isinstance(bench.outcomes[-1], Stored))  # type: ignore[misc]

    on_nodes(test)


def test_no_node_appends_to_a_log_that_it_does_not_know() -> None:
    """An append with an epoch that the log does not have any more keeps nothing, and is refused."""

    async def test(nodes: Nodes) -> None:
        node = await nodes.node()
        await node.keep(node.draft())
        nodes.log.epoch = "f" * 16  # another node has renewed it
        (refused,) = await node.append(node.draft())
        assert isinstance(refused, Refused)
        assert len(nodes.log.records.messages) == 1
        await until(node, lambda: node.store.epoch == "f" * 16)
        await node.keep(node.draft())

    on_nodes(test)


def test_a_log_that_keeps_less_than_before_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What the log promises is asked at each connection, and the log has a warning where it has become less."""

    async def test(nodes: Nodes) -> None:
        nodes.log.durability = Durability.MACHINE
        node = await nodes.node()
        await node.keep(node.draft())
        assert node.store.durability is Durability.MACHINE
        nodes.handles[0].cut = True
        nodes.log.durability = Durability.POWER_CUT
        nodes.log.ring()
        await node.append(node.draft())
        nodes.handles[0].cut = False
        other = await nodes.node()
        (offset,) = await other.keep(other.draft())
        await until(node, lambda: node.reached == offset)
        assert node.store.durability is Durability.POWER_CUT

    on_nodes(test)
    assert caplog.text.count("the log keeps less than before") == 1


def test_retention_that_overtakes_a_node_is_told() -> None:
    """A node that was away longer than messages are kept is told from where on they are there, and goes on with
    those."""

    async def test(nodes: Nodes) -> None:
        node, other = await nodes.node(), await nodes.node()
        await node.keep(node.draft())
        nodes.handles[0].cut = True
        nodes.log.ring()
        await other.keep(*(other.draft() for _ in range(9)))
        nodes.log.records.prune(6)
        nodes.handles[0].cut = False
        await until(node, lambda: node.reached == 10)
        assert node.outcomes[1] == Overrun(6)
        assert [offset for offset, _ in node.fanned_out] == [1, 6, 7, 8, 9, 10]

    on_nodes(test)


def test_a_tail_that_was_ahead_of_its_answer_waits_for_it() -> None:
    """A message that the tail brings before the log has answered its append is the answer, and not found."""

    class Late(MemoryHandle):
        brought = asyncio.Event()

        async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
            stretch = await super().tail(epoch, after, limit, wait)
            if stretch.messages:
                self.brought.set()
            return stretch

        async def after(self, what: str) -> None:
            if what == "append":
                await self.brought.wait()
                for _ in range(5):
                    await asyncio.sleep(0)
            await super().after(what)

    async def test(nodes: Nodes) -> None:
        Late.brought = asyncio.Event()
        node = await nodes.node(patience=5.0, kind=Late)
        (stored,) = await node.append(node.draft())
        assert isinstance(stored, Stored)
        assert not isinstance(stored, Found)
        assert not stored.duplicate

    on_nodes(test)


def test_drafts_of_no_call_are_nothing() -> None:
    """An append of nothing is not answered."""

    async def test(nodes: Nodes) -> None:
        node = await nodes.node()
        node.store.append()
        await node.keep(Draft("cats", b"1", "x"))
        assert len(node.outcomes) == 1

    on_nodes(test)
