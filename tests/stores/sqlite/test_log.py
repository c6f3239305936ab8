"""The log in SQLite: group commit, restarts, retention, and what is in the file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from pathlib import Path

import pytest

from partyline.errors import StoreUnavailable, TooManyTopics
from partyline.interfaces import Refused, Stored, View
from partyline.models import MAX_OFFSET, Draft
from partyline.stores.retention import Retention
from partyline.stores.sqlite.placing import SIZES, pieces
from partyline.stores.sqlite.retention import LogClock

from .logs import Disk, change, opened, rows


class Times:
    """A wall clock and a monotonic one that are moved by hand."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.steady = 100.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    @property
    def clocks(self) -> dict[str, object]:
        return {"clock": lambda: self.wall, "monotonic": lambda: self.steady}


# Group commit


def test_what_queues_up_is_one_commit(path: Path) -> None:
    """Everything appended during one slow commit is committed together, in a handful of statements, and handed out in
    one call."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            await log.keep()
            disk.hold()
            log.store.append(log.draft())
            await disk.held()
            disk.statements.clear()
            for number in range(500):
                log.store.append(log.draft(f"room{number % 7}"))
            assert len(log.batches) == 1, "nothing is handed out before its commit"
            disk.let_go()
            await log.until(lambda: len(log.handed_out) == 502)
            assert [len(batch) for batch in log.batches] == [1, 1, 500]
            assert log.handed_out == list(range(1, 503))
            begin = disk.statements.index("BEGIN IMMEDIATE")
            transaction = disk.statements[begin : disk.statements.index("COMMIT", begin)]
            assert sum(statement.startswith("INSERT INTO log") for statement in transaction) == 1
            assert len(transaction) <= 6, "BEGIN, known ids, known rooms, new rooms, the messages"

    asyncio.run(run())


def test_registrations_share_the_commit(path: Path) -> None:
    """A job for another table and messages that queued up together share one transaction."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            disk.hold()
            log.store.append(log.draft())
            await disk.held()
            before = disk.commits
            log.store.append(log.draft())
            log.database.submit(lambda connection: connection.execute("CREATE TABLE notes (text TEXT)"))
            log.store.append(log.draft())
            disk.let_go()
            await log.until(lambda: len(log.handed_out) == 3)
            assert disk.commits - before == 2
            assert rows(path, "SELECT count(*) FROM notes") == [(0,)]

    asyncio.run(run())


def test_handed_out_means_others_can_read_it(path: Path) -> None:
    """When a message is handed out, another program finds it in the file (guarantee 1)."""

    async def run() -> None:
        async with opened(path) as log:
            for count in (1, 3, 70):
                await log.keep(count)
                assert rows(path, "SELECT max(offset) FROM log") == [(log.handed_out[-1],)]

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63, 64, 65, 127, 129, 200, 511, 512, 513, 1_100])
def test_every_number_of_rows_is_written(path: Path, count: int) -> None:
    """However many messages a commit holds, each is in the file once, whole."""

    async def run() -> None:
        async with opened(path) as log:
            drafts = [log.draft(data=b"%d" % number) for number in range(count)]
            outcomes = await log.append(*drafts)
            assert [outcome.draft for outcome in outcomes] == drafts
            assert [message.draft for message in await log.all()] == drafts
            assert await log.append(*drafts) == [
                Stored(outcome.draft, outcome.message, duplicate=True)
                for outcome in outcomes
                if isinstance(outcome, Stored)
            ]

    asyncio.run(run())


def test_few_statements_whatever_the_number() -> None:
    """Any number of rows is covered exactly by a few statements of the prepared sizes."""
    for count in range(1_200):
        covered = pieces(count)
        assert [start for start, _, _ in covered] == [0, *(end for _, end, _ in covered)][: len(covered)]
        assert (covered[-1][1] if covered else 0) == count
        assert all(0 < end - start <= size and size in SIZES for start, end, size in covered)
        assert len(covered) <= count // 512 + 5


def test_what_cannot_be_stored_costs_its_call_only(path: Path) -> None:
    """A text with half a character is refused as the caller's fault; what was appended with it is stored."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            disk.hold()
            log.store.append(log.draft())
            await disk.held()
            for user in (None, "\ud800", None):
                log.store.append(log.draft(user=user), log.draft())
            log.store.append(Draft("cats", b"1", "\udfff"))
            disk.let_go()
            await log.until(lambda: len(log.outcomes) == 8)
            kinds = [type(outcome).__name__ for outcome in log.outcomes]
            assert kinds == ["Stored"] * 3 + ["Refused"] * 2 + ["Stored"] * 2 + ["Refused"]
            assert {o.error.http_status for o in log.outcomes if isinstance(o, Refused)} == {422}
            assert log.handed_out == [1, 2, 3, 4, 5]

    asyncio.run(run())


# Restarts


def test_a_restart_keeps_everything(path: Path) -> None:
    """The next process has the same epoch, head and messages, and remembers ids."""

    async def run() -> None:
        draft = Draft("cats", b'{"a":1}', "x", key="k", sender="s", ttl=1e6)
        async with opened(path) as log:
            epoch = log.store.epoch
            await log.append(draft)
            await log.keep(50)
            before = await log.all()
        async with opened(path) as log:
            assert (log.store.epoch, log.store.head) == (epoch, 51)
            assert await log.all() == before
            (again,) = await log.append(draft)
            assert isinstance(again, Stored)
            assert (again.duplicate, again.message.offset) == (True, 1)
            assert await log.keep() == [52]

    asyncio.run(run())


def test_every_database_has_its_epoch(tmp_path: Path) -> None:
    """Two new databases have different epochs."""

    async def run() -> set[str]:
        epochs = set()
        for number in range(4):
            async with opened(tmp_path / f"{number}.db") as log:
                epochs.add(log.store.epoch)
        return epochs

    assert len(asyncio.run(run())) == 4


def test_the_last_offset(path: Path) -> None:
    """Offsets stay below 2^53: beyond that, appends are refused, and no number is used twice."""

    async def run() -> None:
        async with opened(path):
            pass
        change(path, "UPDATE store SET head = ?", MAX_OFFSET - 2)
        async with opened(path) as log:
            assert await log.keep(2) == [MAX_OFFSET - 1, MAX_OFFSET]
            (outcome,) = await log.append(log.draft())
            assert isinstance(outcome, Refused)
            assert isinstance(outcome.error, StoreUnavailable)
            assert await log.offsets() == [MAX_OFFSET - 1, MAX_OFFSET]

    asyncio.run(run())


def test_backups_are_whole(path: Path, tmp_path: Path) -> None:
    """A copy made with SQLite's own tools while messages are appended is a log without holes, and can be opened."""

    async def run() -> None:
        copy = tmp_path / "copy.db"
        async with opened(path) as log:
            await log.keep(100)
            for _ in range(2_000):
                log.store.append(log.draft())

            def back_up() -> None:
                source, target = sqlite3.connect(path), sqlite3.connect(copy)
                with contextlib.closing(source), contextlib.closing(target):
                    source.backup(target)

            await asyncio.to_thread(back_up)
            await log.until(lambda: len(log.handed_out) == 2_100)
        async with opened(copy) as log:
            offsets = await log.offsets()
            assert len(offsets) >= 100
            assert offsets == list(range(1, len(offsets) + 1))
            assert log.store.head == offsets[-1]

    asyncio.run(run())


# Retention


def test_a_crowded_room_is_cut_in_slices(path: Path) -> None:
    """A room keeps its newest messages; the excess is pruned in slices between commits, and readers are told."""

    async def run() -> None:
        async with opened(path, Retention(max_messages=50)) as log:
            await log.keep(3, "dogs")
            await log.keep(5_000)
            pruner = log.store._pruner
            await log.settled(lambda: pruner.slices >= 5)
            assert await log.offsets() == list(range(4_954, 5_004))
            assert await log.oldest() == 4_954
            assert await log.offsets("dogs") == [1, 2, 3]
            assert await log.oldest("dogs") == 1
            await log.keep(2)
            await log.settled(lambda: pruner.slices >= 6)
            assert await log.oldest() == 4_956
        async with opened(path, Retention(max_messages=50)) as log:
            assert await log.oldest() == 4_956
            await log.keep(2)  # a new process counts the room again
            await log.settled(lambda: log.store._pruner.slices >= 1)
            assert await log.offsets() == list(range(4_958, 5_008))

    asyncio.run(run())


def test_slices_do_not_starve_commits(path: Path) -> None:
    """While a lot is pruned, no commit waits for more than one slice."""

    async def run() -> None:
        async with opened(path) as log:
            await log.append(*(log.draft() for _ in range(8_000)))
        disk = Disk()
        async with opened(path, Retention(max_messages=10), disk=disk) as log:
            for _ in range(6):
                await log.keep()
            order = [
                "slice" if statement.startswith("DELETE") else "commit"
                for statement in disk.statements
                if statement.startswith(("DELETE FROM log", "INSERT INTO log"))
            ]
            assert max((len(list(run)) for kind, run in itertools.groupby(order) if kind == "slice"), default=0) <= 2
            await log.settled(lambda: log.store._pruner.slices >= 8)
            assert len(await log.offsets()) == 10

    asyncio.run(run())


def test_old_messages_go(path: Path) -> None:
    """Messages older than max_age are pruned, also in rooms where nothing happens; the head and positions survive."""

    async def run() -> None:
        times = Times()
        async with opened(path, Retention(max_age=100.0), **times.clocks) as log:
            await log.keep(3)
            times.go(60)
            await log.keep(2, "dogs")
            await log.keep(1)
            times.go(45)
            await log.settled(lambda: log.store._pruner.slices >= 1)
            assert await log.offsets() == [6]
            assert await log.offsets("dogs") == [4, 5]
            assert (await log.oldest(), await log.oldest("dogs")) == (4, 1)
            times.go(100)
            await log.settled(lambda: log.store._pruner.slices >= 2)
            assert await log.offsets() == await log.offsets("dogs") == []
            assert (await log.oldest(), await log.oldest("dogs")) == (7, 7)
            assert rows(path, "SELECT count(*) FROM rooms") == [(0,)]
        async with opened(path, **times.clocks) as log:
            assert log.store.head == 6
            assert await log.keep() == [7]
            assert await log.oldest() == 7, "it may have lost what it had"

    asyncio.run(run())


def test_rooms_are_bounded(path: Path) -> None:
    """A room beyond max_rooms is refused with the setting's name, and so is a group of them; a room that is gone makes
    space, and a restart still knows how many there are."""

    async def run() -> None:
        times = Times()
        retention = Retention(max_rooms=2, max_age=100.0)
        async with opened(path, retention, **times.clocks) as log:
            await log.keep(1, "cats")
            for drafts in ([log.draft("a"), log.draft("b")], [log.draft("cats"), log.draft("a"), log.draft("b")]):
                outcomes = await log.append(*drafts)
                assert all(isinstance(o, Refused) and isinstance(o.error, TooManyTopics) for o in outcomes)
            await log.keep(1, "dogs")
        async with opened(path, retention, **times.clocks) as log:
            (outcome,) = await log.append(log.draft("birds"))
            assert isinstance(outcome, Refused)
            assert isinstance(outcome.error, TooManyTopics)
            assert "max_rooms" in outcome.error.message
            times.go(101)
            await log.settled(lambda: log.store._pruner.slices >= 1)
            await log.keep(1, "birds")
            assert log.store.head == 3

    asyncio.run(run())


def test_ids_are_forgotten_after_their_window(path: Path) -> None:
    """Within the window the same id is a retry; after it, it is a new message."""

    async def run() -> None:
        times = Times()
        async with opened(path, idempotency_window=60.0, **times.clocks) as log:
            draft = log.draft(message_id="x")
            await log.append(draft)
            times.go(60)
            (again,) = await log.append(draft)
            assert isinstance(again, Stored)
            assert again.duplicate
            times.go(0.1)
            (new,) = await log.append(draft)
            assert isinstance(new, Stored)
            assert (new.duplicate, new.message.offset) == (False, 2)
            (again,) = await log.append(draft)
            assert isinstance(again, Stored)
            assert (again.duplicate, again.message.offset) == (True, 2)

    asyncio.run(run())


def test_a_reader_follows_retention(path: Path) -> None:
    """A page read after retention took the next messages says so in `oldest`, so a gap is never silent (guarantee
    3)."""

    async def run() -> None:
        async with opened(path, Retention(max_messages=10)) as log:
            await log.keep(5)
            page = await log.store.read(View(frozenset(("cats",))), 0, 3)
            await log.keep(20)
            await log.settled(lambda: log.store._pruner.slices >= 1)
            following = await log.store.read(View(frozenset(("cats",))), page.next, 3)
            assert following.oldest > page.next + 1
            whole = await log.store.read(View(patterns=(">",)), page.next, 3)
            assert whole.oldest > page.next + 1

    asyncio.run(run())


# Clocks


def test_a_clock_that_is_set_prunes_nothing(path: Path) -> None:
    """When the wall clock jumps a year ahead and back, nothing is lost or kept longer, and ids are remembered."""

    async def run() -> None:
        times = Times()
        year = 365 * 86_400.0
        async with opened(path, Retention(max_age=100.0), **times.clocks) as log:
            draft = log.draft(message_id="x")
            for jump in (0.0, year, -2 * year, year):
                times.wall += jump
                await log.append(draft)
                await log.keep()
                await log.settled()
            assert await log.offsets() == [1, 2, 3, 4, 5]
            times.go(101)
            await log.settled(lambda: log.store._pruner.slices >= 1)
            assert await log.offsets() == []

    asyncio.run(run())


def test_the_clock_goes_on_over_a_restart() -> None:
    """Across a restart the log's clock advances as far as the wall clock did since the newest message, and never goes
    back."""
    times = Times()
    first = LogClock(None, lambda: times.wall, lambda: times.steady)
    start = first.now()
    times.steady += 10
    times.wall += 1e6  # somebody set the clock
    newest = (int(times.wall * 1e6), first.now())
    assert first.now() == start + 10_000
    times.go(5)
    times.steady = 3.0  # another process, another origin
    second = LogClock(newest, lambda: times.wall, lambda: times.steady)
    assert abs(second.now() - (start + 15_000)) <= 1
    times.wall -= 1e6
    third = LogClock(newest, lambda: times.wall, lambda: times.steady)
    assert third.now() == newest[1]


# Pages


def test_pages_are_bounded_in_bytes(path: Path) -> None:
    """A page ends at 4 MiB of data even if more messages were asked for, and the next one goes on."""

    async def run() -> None:
        async with opened(path) as log:
            await log.append(*(log.draft(data=b"x" * 1_000_000) for _ in range(12)))
            page = await log.store.read(View(frozenset(("cats",))), 0, 1_000)
            assert 4 <= len(page.messages) <= 5
            assert page.more
            assert await log.offsets() == list(range(1, 13))

    asyncio.run(run())


def test_a_sparse_room_is_found_in_a_large_log(path: Path) -> None:
    """A few messages among many of other rooms are all found in few pages, by name, by pattern and in a view of many
    rooms."""

    async def run() -> None:
        async with opened(path) as log:
            rare = await log.keep(1, "rare.one")
            for number in range(10):
                await log.append(*(log.draft(f"r{place % 150}.x") for place in range(1_000)))
                rare += await log.keep(1, f"rare.n{number}")
            names = frozenset(["rare.one", *(f"rare.n{n}" for n in range(10)), *(f"none{n}" for n in range(200))])
            for view in (View(names), View(patterns=("rare.*",)), View(patterns=("*.one", "*.n0", "rare.>"))):
                seen, after, count = [], 0, 0
                while True:
                    page = await log.store.read(view, after, 5)
                    count += 1
                    seen += [message.offset for message in page.messages]
                    after = page.next
                    if not page.more:
                        break
                assert seen == rare
                assert count <= 6
            everything = View(patterns=("*.x", "rare.>"))
            page = await log.store.read(everything, 0, 100)
            assert [message.offset for message in page.messages] == list(range(1, 101))

    asyncio.run(run())


def test_reading_after_close_is_refused(path: Path) -> None:
    """After close a read fails as temporary, and the files are released."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep()
            await log.store.close()
            with pytest.raises(StoreUnavailable):
                await log.all()
        assert not Path(f"{path}-wal").exists()

    asyncio.run(run())


# Migration

VERSION_1 = """
PRAGMA application_id = 1349282158;
CREATE TABLE store (id INTEGER PRIMARY KEY CHECK (id = 1), created REAL NOT NULL) STRICT;
CREATE TABLE registrations (
  id_hash BLOB PRIMARY KEY, user TEXT NOT NULL, topics TEXT NOT NULL, grants TEXT NOT NULL, used INTEGER NOT NULL,
  created REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO store VALUES (1, 12.5);
INSERT INTO registrations VALUES (x'01', '7', '["cats"]', '[">"]', 1, 13.5);
PRAGMA user_version = 1;
"""


def test_a_version_1_database_becomes_a_log(tmp_path: Path) -> None:
    """A file of version 1 keeps its registrations, gets an epoch of its own, and is then like a new file."""

    async def run() -> None:
        for name in ("one", "two"):
            with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
                connection.executescript(VERSION_1)
        epochs = set()
        for name in ("one", "two", "new"):
            async with opened(tmp_path / name) as log:
                epochs.add(log.store.epoch)
                assert await log.keep(3) == [1, 2, 3]
        assert len(epochs) == 3
        assert rows(tmp_path / "one", "SELECT user, created FROM registrations") == [("7", 13.5)]
        assert rows(tmp_path / "one", "SELECT created FROM store") == [(12.5,)]
        shapes = [
            [
                (table, rows(tmp_path / name, f"PRAGMA table_xinfo({table})"))
                for (table,) in rows(tmp_path / name, "SELECT name FROM sqlite_master ORDER BY name")
            ]
            for name in ("one", "new")
        ]
        assert shapes[0] == shapes[1]

    asyncio.run(run())
