"""What workers share through their keeper: the suites of `partyline.testing` over a Unix socket, on a database file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from partyline.hub.envelopes import node_name
from partyline.interfaces import Bus, Found, Refused, Store, Stored, Tables
from partyline.metrics import Counters
from partyline.models import Draft
from partyline.stores.memory import MemoryStore
from partyline.stores.shared import SharedStore
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore
from partyline.testing import BUS_CHECKS, SHARED_CHECKS, TABLE_CHECKS
from partyline.testing.bench import Bench
from partyline.testing.bus import run_bus_check
from partyline.testing.shared import MakeTwo, run_shared_check
from partyline.testing.tables import run_tables_check
from partyline.workers.keeper import Keeper
from partyline.workers.member import Member
from partyline.workers.recent import Recent
from partyline.workers.sharing import TABLES, KeeperBus, KeeperLog, KeeperTables
from partyline.workers.shelf import Shelf

Clock = Callable[[], float]


class Machine:
    """A folder with a database, a keeper that can be restarted, and members of it."""

    def __init__(self, folder: Path, clock: Clock, *, in_memory: bool = False) -> None:
        self.path = str(folder / "keeper.sock")
        self._db = ":memory:" if in_memory else str(folder / "partyline.db")
        self._clock = clock
        self.keeper: Keeper
        self._database: Database

    async def start(self) -> None:
        counters = Counters()
        self._database = Database(self._db, counters)
        if self._db == ":memory:":
            store: SqliteStore | MemoryStore = MemoryStore(clock=self._clock)
        else:
            store = SqliteStore(self._database, clock=self._clock)
        shelves = {name: Shelf(name, self._database, clock=self._clock) for name in TABLES}
        self.keeper = Keeper(store, shelves, counters)
        await self.keeper.listen(self.path)

    async def stop(self) -> None:
        await self.keeper.close()
        await asyncio.to_thread(self._database.close)

    def cut(self) -> None:
        """Every line breaks."""
        for worker in tuple(self.keeper.workers):
            worker.line.abort()

    def member(self) -> Member:
        return Member(self.path, node_name())


@contextlib.asynccontextmanager
async def machine(clock: Clock = lambda: 1_000_000.0, *, in_memory: bool = False) -> AsyncIterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:
        one = Machine(Path(folder), clock, in_memory=in_memory)
        await one.start()
        try:
            yield one
        finally:
            await one.stop()


def two(*, in_memory: bool) -> MakeTwo:
    @contextlib.asynccontextmanager
    async def make(clock: Clock) -> AsyncIterator[tuple[Store, Store]]:
        async with machine(clock, in_memory=in_memory) as one:
            here, there = [await SharedStore.open(KeeperLog(one.member())) for _ in range(2)]
            yield here, there
            await asyncio.gather(here.close(), there.close())

    return make


@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "memory"])
@pytest.mark.parametrize("promise", SHARED_CHECKS)
def test_the_log_of_a_keeper_keeps(promise: str, in_memory: bool) -> None:
    """Each promise about two nodes on one log is kept through a keeper, whose log is in a file or in memory."""
    asyncio.run(run_shared_check(SHARED_CHECKS[promise], two(in_memory=in_memory)))


@contextlib.asynccontextmanager
async def buses(count: int) -> AsyncIterator[Sequence[Bus]]:
    async with machine() as one:
        members = [one.member() for _ in range(count)]
        yield [KeeperBus(member) for member in members]
        for member in members:
            await member.close()


@pytest.mark.parametrize("promise", BUS_CHECKS)
def test_the_bus_of_a_keeper_keeps(promise: str) -> None:
    """Each promise of a bus is kept by the one through a keeper."""
    asyncio.run(run_bus_check(BUS_CHECKS[promise], buses))


@contextlib.asynccontextmanager
async def tables(clock: Clock) -> AsyncIterator[tuple[Tables, Tables]]:
    async with machine(clock) as one:
        members = [one.member() for _ in range(2)]
        for member in members:
            await member.start()
        here, there = map(KeeperTables, members)
        yield here, there
        for member in members:
            await member.close()


@pytest.mark.parametrize("promise", TABLE_CHECKS)
def test_the_tables_of_a_keeper_keep(promise: str) -> None:
    """Each promise of tables is kept by those of a keeper."""
    asyncio.run(run_tables_check(TABLE_CHECKS[promise], tables))


def draft(number: int, *, chosen: bool) -> Draft:
    return Draft(f"room{number % 3}", b"%d" % number, f"id{number}", chosen_id=chosen)


@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "random"])
@pytest.mark.parametrize("restarted", [False, True], ids=["cut", "restarted"])
def test_a_line_that_breaks_again_and_again(chosen: bool, restarted: bool) -> None:
    """However often the line breaks, or the keeper is restarted, in the middle of appends, every message is in the log
    once, in the order of its node, also where its id was drawn at random."""

    async def main() -> None:
        async with machine() as one:
            bench = Bench("a")
            bench.start(await SharedStore.open(KeeperLog(one.member())))
            for number in range(200):
                bench.store.append(draft(number, chosen=chosen))
                await asyncio.sleep(0)
                if number % 20 == 10:
                    if restarted:
                        await one.stop()
                        await one.start()
                    else:
                        one.cut()
            answers = await bench.answered(200)
            assert not [one for one in answers if isinstance(one, Refused)]
            stored = [one for one in bench.outcomes if isinstance(one, Stored) and not one.duplicate]
            assert [one.message.draft.data for one in stored] == [b"%d" % number for number in range(200)]
            assert not any(isinstance(one, Found) for one in stored)
            await bench.store.close()

    asyncio.run(main())


def test_watchers_and_listeners_come_again() -> None:
    """After a restart of the keeper a bus hears again, and a watcher is told what has changed meanwhile."""

    async def main() -> None:
        async with machine() as one:
            members = [one.member() for _ in range(2)]
            here, there = map(KeeperBus, members)
            shelves = [KeeperTables(member).registrations for member in members]
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            told: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
            for bus in (here, there):
                await bus.start(lambda node, data: None)
            there.listen("s", lambda node, data: heard.put_nowait(data))
            await shelves[0].put("gone", b"1", 60.0)
            await shelves[1].watch(lambda key, value: told.put_nowait((key, value)))
            assert await told.get() == ("gone", b"1")
            await one.stop()
            await one.start()
            for bus in (here, there):
                while not bus.connected:
                    await asyncio.sleep(0.01)
                await bus.ready()
            assert await shelves[0].take("gone") == b"1"
            assert await told.get() == ("gone", None)
            here.publish("s", b"again")
            assert await heard.get() == b"again"
            for member in members:
                await member.close()

    asyncio.run(main())


def test_what_is_recent_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest messages are kept in memory up to a number of bytes, without a hole."""
    monkeypatch.setattr("partyline.workers.recent._MOST", 10_000)
    recent = Recent(5)
    from partyline.models import Message

    for offset in itertools.islice(itertools.count(7, 2), 500):
        recent.add(Message(Draft("cats", b"x" * 50, str(offset)), offset, 0.0))
        assert sum(recent._sizes) == recent._size <= 20_000 + 500
        assert recent.at(offset) is not None
        first = recent._offsets[0]
        assert recent.since == (5 if first == 7 else first - 2)
        assert len(recent.after(recent.since, 1_000)) == len(recent._offsets)
    assert recent.head == 1005


def test_a_worker_that_is_far_behind_reads_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that follows from before what the keeper has in memory gets everything, in order."""
    monkeypatch.setattr("partyline.workers.recent._MOST", 2_000)

    async def main() -> None:
        async with machine() as one:
            log = KeeperLog(one.member())
            standing = await log.connect(0)
            for number in range(300):
                await log.append(standing.epoch, [[draft(number, chosen=False)]])
            seen: list[bytes] = []
            after = 0
            while len(seen) < 300:
                stretch = await log.tail(standing.epoch, after, 64, 1.0)
                seen += [message.draft.data for message in stretch.messages]
                after = stretch.messages[-1].offset or 0
            assert seen == [b"%d" % number for number in range(300)]
            assert one.keeper.recent.since > 200
            await log.close()

    asyncio.run(main())


@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "memory"])
def test_the_whole_log_in_pieces(in_memory: bool) -> None:
    """A store gives all messages above an offset, those whose life is over too, and says where retention has been."""

    async def main() -> None:
        async with machine(lambda: 1_000_000.0, in_memory=in_memory) as one:
            log = KeeperLog(one.member())
            epoch = (await log.connect(0)).epoch
            drafts = [Draft(f"room{n % 7}", b"1", str(n), ttl=0.0 if n % 3 == 0 else None) for n in range(50)]
            await log.append(epoch, [drafts])
            found: list[str] = []
            while len(found) < 50:
                piece = await one.keeper.store.stretch(len(found), 8)
                assert piece.oldest == 1
                assert 0 < len(piece.messages) <= 8
                found += [message.draft.id for message in piece.messages]
            assert found == [str(n) for n in range(50)]
            assert not (await one.keeper.store.stretch(50, 8)).messages
            await log.close()

    asyncio.run(main())


def test_a_table_outlives_its_keeper() -> None:
    """What was put is there after a restart, what was taken or is over is not, not in the file either."""
    now = 1_000_000.0

    async def main() -> None:
        nonlocal now
        async with machine(lambda: now) as one:
            for restarts in range(2):
                member = one.member()
                await member.start()
                table = KeeperTables(member).sessions
                if not restarts:
                    await table.put("short", b"1", 5.0)
                    await table.put("taken", b"1", 50.0)
                    await table.put("kept", b"1", 50.0)
                    assert await table.take("taken") == b"1"
                    now += 10.0
                    await table.put("other", b"2", 50.0)
                assert dict(await table.all()) == {"kept": b"1", "other": b"2"}
                await member.close()
                await one.stop()
                await one.start()
                rows = one._database.rows("SELECT key FROM shared WHERE name = 'sessions' ORDER BY key")
                assert rows == [("kept",), ("other",)]

    asyncio.run(main())


def test_whoever_does_not_speak_the_protocol_is_cut_off() -> None:
    """Garbage, and a frame that would be too long, end a line and nothing else."""

    async def main() -> None:
        async with machine() as one:
            for data in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"):
                reader, writer = await asyncio.open_unix_connection(one.path)
                writer.write(data)
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
            log = KeeperLog(one.member())
            assert (await log.connect(0)).head == 0
            await log.close()

    asyncio.run(main())


def test_a_node_that_goes_is_told_to_the_others() -> None:
    """The members that stay hear at once of one whose line breaks."""

    async def main() -> None:
        async with machine() as one:
            members = [one.member() for _ in range(2)]
            gone: asyncio.Queue[str] = asyncio.Queue()
            members[0].left.append(gone.put_nowait)
            for member in members:
                await member.start()
                await KeeperBus(member).ready()
            await members[1].close()
            assert await gone.get() == members[1].node
            await members[0].close()

    asyncio.run(main())


def test_workers_know_that_the_log_takes_nothing() -> None:
    """Where the keeper cannot write, as on a full disk, every worker knows it, also one that does not publish; and
    knows it when it can again."""

    async def main() -> None:
        async with machine() as one:
            here, there = Bench("here"), Bench("there")
            for bench in (here, there):
                bench.start(await SharedStore.open(KeeperLog(one.member())))
            await here.keep(here.draft())
            Path(one._db).rename(f"{one._db}.moved")
            async with asyncio.timeout(10):
                while here.store.refusal is None or there.store.refusal is None:
                    here.store.append(here.draft())
                    await asyncio.sleep(0.01)
            Path(f"{one._db}.moved").rename(one._db)
            async with asyncio.timeout(10):
                while here.store.refusal is not None or there.store.refusal is not None:
                    here.store.append(here.draft())
                    await asyncio.sleep(0.01)
            await asyncio.gather(here.store.close(), there.store.close())

    asyncio.run(main())
