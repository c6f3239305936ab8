"""What the log survives: failing commits, full and slow disks, damage, kill -9, a second server (hostile 1-8)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Found, Refused, Stored, View
from partyline.metrics import Counters
from partyline.models import Page
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore
from tests.tools import ROOT, preloaded

from .logs import LONG, Disk, change, opened, rows

# Commits that fail


def test_a_failed_commit_is_refused_whole(path: Path) -> None:
    """When a commit fails, everything in it is refused as temporary and nothing of it is in the file; a later commit
    takes the same numbers (guarantee 7)."""

    async def run() -> None:
        disk, counters = Disk(), Counters()
        async with opened(path, disk=disk, counters=counters) as log:
            await log.keep(3)
            disk.failing = True
            outcomes = await log.append(*(log.draft() for _ in range(5)))
            assert all(isinstance(o, Refused) and isinstance(o.error, StoreUnavailable) for o in outcomes)
            assert counters.write_errors >= 1
            assert log.store.head == 3
            disk.failing = False
            assert await log.accepted() == 4
            assert await log.keep(2) == [5, 6]
            assert await log.offsets() == [1, 2, 3, 5, 6]
            assert log.handed_out == [1, 2, 3, 4, 5, 6]

    asyncio.run(run())


def test_while_it_is_down_it_refuses_at_once(path: Path) -> None:
    """While the disk refuses, each append is refused in order without waiting for another try, and reads go on."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            await log.keep(3)
            disk.failing = True
            await log.append(log.draft())
            for count in (1, 4, 100):
                drafts = [log.draft() for _ in range(count)]
                outcomes = await log.append(*drafts)
                assert [outcome.draft for outcome in outcomes] == drafts
                assert all(isinstance(outcome, Refused) for outcome in outcomes)
            assert await log.offsets() == [1, 2, 3]
            disk.failing = False
            assert await log.accepted() == 4

    asyncio.run(run())


def test_queued_appends_do_not_overtake(path: Path) -> None:
    """Appends queued after a failing commit are answered after it, in order."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            disk.hold()
            drafts = [log.draft() for _ in range(50)]
            log.store.append(drafts[0])
            await disk.held()
            for draft in drafts[1:]:
                log.store.append(draft)
            disk.failing = True
            disk.let_go()
            await log.until(lambda: len(log.outcomes) >= 50)
            assert [outcome.draft for outcome in log.outcomes] == drafts
            assert all(isinstance(outcome, Refused) for outcome in log.outcomes)
            disk.failing = False
            assert await log.accepted() == 1

    asyncio.run(run())


def test_rows_that_rise_again_are_handed_out_once(path: Path) -> None:
    """When a commit fails but is in the file all the same, its publishers are refused, its messages are handed out
    once, before anything newer, and a retry finds them."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            await log.keep(3)
            disk.uncertain = 1
            drafts = [log.draft(room) for room in ("cats", "dogs", "cats")]
            assert all(isinstance(outcome, Refused) for outcome in await log.append(*drafts))
            assert log.store.head == 3
            assert await log.accepted() == 7
            found = [outcome for outcome in log.outcomes if isinstance(outcome, Found)]
            assert [(outcome.message.offset, outcome.draft) for outcome in found] == list(
                zip((4, 5, 6), drafts, strict=True)
            )
            assert log.handed_out == [1, 2, 3, 4, 5, 6, 7]
            again = await log.append(*drafts)
            assert [(o.message.offset, o.duplicate) for o in again if isinstance(o, Stored)] == [
                (4, True),
                (5, True),
                (6, True),
            ]
        async with opened(path) as log:
            assert await log.offsets() == [1, 2, 3, 4, 6]

    asyncio.run(run())


def test_failing_again_and_again(path: Path) -> None:
    """Whatever fails in whatever order, every offset is handed out once, in order, and matches the file."""

    async def run() -> None:
        chance = random.Random(7)
        disk = Disk()
        async with opened(path, disk=disk) as log:
            answered = 0
            for _ in range(60):
                match chance.randrange(6):
                    case 0:
                        disk.uncertain = chance.randint(1, 3)
                    case 1:
                        disk.failing = True
                    case _:
                        disk.failing = False
                for _ in range(chance.randint(1, 6)):
                    count = chance.randint(1, 3)
                    answered += count
                    log.store.append(*(log.draft() for _ in range(count)))
                    await asyncio.sleep(0)
                await log.answered(answered)
            disk.failing, disk.uncertain = False, 0
            await log.accepted()
            everything = [offset for (offset,) in rows(path, "SELECT offset FROM log ORDER BY offset")]
            assert log.handed_out == everything == list(range(1, len(everything) + 1))

    asyncio.run(run())


def test_a_full_disk(path: Path) -> None:
    """While the disk is full every publish is refused, stored messages can be read and registrations wait; with space
    again the service resumes by itself, and no refused message is there (hostile 2)."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            await log.keep(20, data=b"x" * 2_000)
            kept = await log.offsets()
            (used,) = rows(path, "PRAGMA page_count")[0]
            disk.max_pages = int(str(used)) + 4
            log.database.submit(
                lambda connection: connection.execute(f"PRAGMA max_page_count={disk.max_pages}").close()
            )
            refused = 0
            for _ in range(30):
                (outcome,) = await log.append(log.draft(data=b"x" * 3_000))
                refused += isinstance(outcome, Refused)
                if isinstance(outcome, Stored):
                    kept.append(outcome.message.offset or 0)
            assert refused >= 20
            assert await log.offsets() == kept
            disk.max_pages = 0
            log.database.submit(lambda connection: connection.execute("PRAGMA max_page_count=1000000").close())
            await log.accepted()
            kept += await log.keep(5, data=b"x" * 3_000)
            assert await log.offsets() == kept
            assert log.handed_out == sorted(log.handed_out)

    asyncio.run(run())


def test_closing_while_it_is_down(path: Path) -> None:
    """A disk that refuses does not keep the server from ending: everything is answered, and the file is released."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            await log.keep()
            disk.failing = True
            for _ in range(10):
                log.store.append(log.draft())
            await asyncio.wait_for(log.store.close(), LONG)
            assert len(log.outcomes) == 11
            await asyncio.wait_for(asyncio.to_thread(log.database.close), LONG)
            (outcome,) = await log.append(log.draft())
            assert isinstance(outcome, Refused)
        async with opened(path) as log:
            assert await log.offsets() == [1]

    asyncio.run(run())


# A disk that lies or dawdles, below SQLite


@pytest.fixture(scope="module")
def tampered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that tampers with fsync."""
    return preloaded(Path(__file__).with_name("fsync.c"), tmp_path_factory.mktemp("fsync"))


def tamper(library: str, what: str, path: Path, order: Path) -> dict[str, object]:
    environment = {**os.environ, "LD_PRELOAD": library, "FSYNC_ORDER": str(order)}
    command = [sys.executable, "-m", "tests.stores.sqlite.slow_disk", what, path, order]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_failing_fsync(tampered: str, path: Path, tmp_path: Path) -> None:
    """When an fsync fails with EIO, no publish of that commit is acknowledged, the store reopens the file and goes on,
    and the file is whole (hostile 3)."""
    answer = tamper(tampered, "eio", path, tmp_path / "order")
    assert answer["obeyed"]
    assert answer["refused"]
    assert answer["errors"] == 1
    handed_out = answer["handed_out"]
    assert handed_out == [offset for (offset,) in rows(path, "SELECT offset FROM log ORDER BY offset")]
    assert isinstance(handed_out, list)
    assert handed_out[-1] == answer["later"]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.alone
def test_a_slow_fsync(tampered: str, path: Path, tmp_path: Path) -> None:
    """While each fsync takes 300 ms, nothing on the loop is 50 ms late (hostile 5)."""
    answer = tamper(tampered, "slow", path, tmp_path / "order")
    assert float(str(answer["took"])) > 0.9
    assert float(str(answer["lag"])) < 0.05


# kill -9


@pytest.mark.check
def test_killed_at_any_instant(path: Path) -> None:
    """After kill -9 during publishes every acknowledged message is there, whole, offsets are contiguous, and the epoch
    is the same (hostile 1)."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: dict[int, str] = {}
    epochs = set()
    for turn in range(5):
        command = [sys.executable, "-m", "tests.stores.sqlite.publisher", path, str(turn)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        select.select([process.stdout], [], [], LONG)  # the first acknowledgement
        time.sleep(chance.uniform(0, 0.3))  # a random instant
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        lines = out.decode().splitlines()
        assert lines
        for line in lines:
            offset, message_id = line.split()
            assert int(offset) not in acknowledged
            acknowledged[int(offset)] = message_id

        async def check() -> None:
            async with opened(path) as log:
                epochs.add(log.store.epoch)
                found: list[int] = []
                there: dict[int, str] = {}
                page = Page((), 0, True, 1)
                while page.more:
                    page = await log.store.read(View(patterns=(">",)), page.next, 1_000)
                    there |= {message.offset or 0: message.draft.id for message in page.messages}
                    found += [message.offset or 0 for message in page.messages]
                assert found == list(range(1, len(found) + 1))
                assert acknowledged.items() <= there.items()

        asyncio.run(check())
    assert len(epochs) == 1
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_second_process_is_refused(path: Path) -> None:
    """Another process on the same database is refused with a clear message while the first one lives (hostile 7)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep()
            code = f"from partyline.stores.sqlite.database import Database as D; D({str(path)!r}, None)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
            assert "in use by another server" in done.stderr
            assert await log.keep() == [2]

    asyncio.run(run())


# Damage


def test_a_damaged_message_is_an_alarm(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A message whose bytes changed is never served, but its neighbours are; readers learn of the hole by `oldest`, and
    other rooms are not affected (hostile 4)."""

    async def run() -> None:
        counters = Counters()
        async with opened(path, counters=counters) as log:
            await log.keep(10, data=b'"fine"')
            await log.keep(3, "dogs")
            for column, value in (
                ("data", b'"FINE"'),
                ("data", b"\xff\x00\xfe"),
                ("data", b""),
                ("head", '["other",null,null,null,null,null,""]'),
                ("time", 1),
                ("checksum", 0),
            ):
                offset = {"head": 5, "time": 6, "checksum": 7}.get(column, 4)
                before = rows(path, f"SELECT {column} FROM log WHERE offset = ?", offset)[0][0]
                change(path, f"UPDATE log SET {column} = ? WHERE offset = ?", value, offset)
                page = await log.store.read(View(frozenset(("cats",))), 0, 100)
                offsets = [message.offset for message in page.messages]
                assert offsets == [number for number in range(1, 11) if number != offset]
                assert all(message.draft.data == b'"fine"' for message in page.messages)
                assert page.oldest >= offset + 1
                assert await log.oldest() >= offset + 1, "whoever resumes is told at once"
                everything = await log.store.read(View(patterns=(">",)), 0, 100)
                assert len(everything.messages) == 12
                assert everything.oldest >= offset + 1
                change(path, f"UPDATE log SET {column} = ? WHERE offset = ?", before, offset)
            assert await log.offsets("dogs") == [11, 12, 13]
            assert await log.oldest("dogs") == 1
            assert await log.keep() == [14]
            assert counters.damaged == 4, "each is counted once, however often it is read"
            assert counters.totals()["damaged"] == 4
            told = [record for record in caplog.records if "damaged" in record.getMessage()]
            assert [record.levelname for record in told] == ["ERROR"] * 4
            positions = {f"{log.store.epoch}-{offset}" for offset in (4, 5, 6, 7)}
            assert {record.position for record in told} == positions  # type: ignore[attr-defined]

    asyncio.run(run())
    assert "FINE" not in caplog.text


@pytest.mark.parametrize("which", [0, 70, 139])
def test_a_flipped_bit_is_found_at_start(path: Path, which: int) -> None:
    """If a byte of a recent message changed in the file, the database is refused with a clear message."""

    async def run() -> None:
        async with opened(path) as log:
            await log.append(*(log.draft(data=b'"needle %04d"' % number) for number in range(140)))

    asyncio.run(run())
    content = bytearray(path.read_bytes())
    at = content.index(b"needle %04d" % which)
    content[at] ^= 0x20
    path.write_bytes(content)
    database = Database(str(path), Counters())
    try:
        with pytest.raises(ConfigError, match="is damaged") as caught:
            SqliteStore(database)
        assert caught.value.field == "db"
        assert f"offset {which + 1} " in caught.value.message
    finally:
        database.close()


def test_a_flipped_bit_of_an_index_or_the_schema_is_found_at_start(path: Path) -> None:
    """If an index disagrees with its table, or the schema is not even text, the database is refused."""

    async def run() -> None:
        async with opened(path) as log:
            await log.append(*(log.draft("room1") for _ in range(20)))

    asyncio.run(run())
    content = path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'log_by_room'"
        (page,) = connection.execute(query).fetchone()
    for at, bit in ((content.index(b"room1", (page - 1) * 4096), 0x01), (content.index(b"TABLE registrations"), 0x80)):
        damaged = bytearray(content)
        damaged[at] ^= bit
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="is damaged"):
            Database(str(path), Counters())


@pytest.mark.check
def test_any_flipped_byte_is_never_served(path: Path, tmp_path: Path) -> None:
    """Whatever byte of the file changes, the log is refused at start, fails to read, or serves only what was
    written."""
    written = {}

    async def fill() -> None:
        async with opened(path) as log:
            outcomes = await log.append(*(log.draft(f"room{n % 3}", b'"%d"' % n * 20, key=f"k{n}") for n in range(60)))
            written.update({o.message.offset: o.message for o in outcomes if isinstance(o, Stored)})

    asyncio.run(fill())
    content = path.read_bytes()
    chance = random.Random(11)
    verdicts: dict[str, int] = {}

    async def look(copy: Path) -> str:
        try:
            async with opened(copy) as log:
                page = await log.store.read(View(patterns=(">",)), 0, 1_000)
        except (ConfigError, StoreUnavailable):
            return "refused"
        for message in page.messages:
            assert written[message.offset] == message
        if len(page.messages) < len(written):
            return "hole"
        return "whole"

    for number in range(120):
        copy = tmp_path / f"copy{number}.db"
        damaged = bytearray(content)
        damaged[chance.randrange(100, len(content))] ^= 1 << chance.randrange(8)
        copy.write_bytes(damaged)
        verdict = asyncio.run(look(copy))
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
    assert verdicts.get("hole", 0) == 0, verdicts
    assert verdicts.get("refused", 0) > 0


def test_a_cut_wal_is_a_crash_before_the_commit(path: Path, tmp_path: Path) -> None:
    """A write-ahead log that is cut off anywhere leaves the messages of whole commits, contiguous from the first, and
    never a torn half (hostile 4)."""

    async def run() -> None:
        async with opened(path) as log:
            for _ in range(12):
                await log.keep(3)
            for name in ("", "-wal"):
                shutil.copy(f"{path}{name}", tmp_path / f"source.db{name}")
        wal = (tmp_path / "source.db-wal").read_bytes()
        chance = random.Random(3)
        lengths = set()
        for number in range(25):
            copy = tmp_path / f"cut{number}.db"
            shutil.copy(tmp_path / "source.db", copy)
            Path(f"{copy}-wal").write_bytes(wal[: chance.randrange(len(wal))])
            try:
                async with opened(copy) as log:
                    offsets = await log.offsets()
                    assert offsets == list(range(1, len(offsets) + 1))
                    assert await log.keep() == [len(offsets) + 1]
                    lengths.add(len(offsets))
            except ConfigError:  # cut before the schema was there
                lengths.add(-1)
        assert len(lengths) > 5

    asyncio.run(run())


# Readers and the write-ahead log


@pytest.mark.check
def test_the_wal_is_bounded_under_a_slow_reader(path: Path) -> None:
    """A client that reads the whole log page by page, however slowly, does not keep the write-ahead log from being
    reused (hostile 6)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(100, data=b"x" * 1_000)
            at, largest = 0, 0
            for _ in range(60):
                page = await log.store.read(View(frozenset(("cats",))), at, 5)
                at = page.next
                await log.append(*(log.draft(data=b"x" * 10_000) for _ in range(100)))
                largest = max(largest, os.stat(f"{path}-wal").st_size)
            assert rows(path, "SELECT sum(length(data)) FROM log")[0] > (60_000_000,)
            assert largest < 40_000_000

    asyncio.run(run())


def test_a_foreign_reader_delays_only(path: Path) -> None:
    """A read transaction of another program keeps the write-ahead log from being reused while it lasts, but no publish
    waits for it; afterwards the file is short again."""

    async def run() -> None:
        async with opened(path, wal_large=1_000_000) as log:
            await log.keep()
            with sqlite3.connect(path, isolation_level=None) as reader:
                reader.execute("BEGIN")
                assert reader.execute("SELECT count(*) FROM log").fetchone() == (1,)
                for _ in range(30):
                    await log.append(*(log.draft(data=b"x" * 10_000) for _ in range(100)))
                assert reader.execute("SELECT count(*) FROM log").fetchone() == (1,)
                assert os.stat(f"{path}-wal").st_size > 30_000_000
                reader.execute("COMMIT")
            reader.close()
            log.database._shorten_due = 0.0  # it looks once a second
            await log.settled(lambda: os.stat(f"{path}-wal").st_size < 1_000_000)
            assert await log.offsets() == list(range(1, 3_002))

    asyncio.run(run())
