"""Backups of a live log, and restoring them: whole or not at all, and never taken for the log they came from."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from partyline.errors import ConfigError
from partyline.hub.history import find_start
from partyline.interfaces import View
from partyline.models import Draft, Position
from partyline.stores.sqlite import lock, opening
from partyline.stores.sqlite.copying import back_up, restore
from tests.process import environment
from tests.tools import one_in

from .logs import LONG, change, hubbed, opened, published, rows


def filled(path: Path, count: int = 100, data: bytes = b"1") -> str:
    """A closed log with so many messages; its epoch."""

    async def run() -> str:
        async with opened(path) as log:
            await log.keep(count, data=data)
            return log.store.epoch

    return asyncio.run(run())


def offsets(path: Path) -> list[int]:
    """The data of all messages, read as a server would read them from a database that it can start with."""

    async def run() -> list[int]:
        async with opened(path) as log:
            return await log.offsets()

    return asyncio.run(run())


def others(path: Path) -> set[str]:
    """The files beside the database that do not belong to it."""
    return {one.name for one in path.parent.iterdir()} - {path.name + end for end in ("", "-wal", "-shm", ".lock")}


# Backup


def test_a_backup_beside_a_busy_server(path: Path, tmp_path: Path) -> None:
    """A backup made while messages are committed without a pause is a log without holes up to one moment between its
    beginning and its end, in one file that only its owner can read (hostile 9)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(3_000, data=b"x" * 2_000)
            ending = threading.Event()

            async def publish() -> None:
                while not ending.is_set():
                    await log.keep(20, data=b"y" * 2_000)

            publishing = asyncio.create_task(publish())
            seen: list[tuple[str, int, int]] = []
            before = log.store.head
            copy = await asyncio.wait_for(
                asyncio.to_thread(
                    back_up, str(path), str(tmp_path / "copy.db"), progress=lambda *one: seen.append(one)
                ),
                LONG,
            )
            after = log.store.head
            ending.set()
            await publishing
            assert before <= copy.head <= after
            assert log.store.head > before, "publishing went on"
            assert copy.epoch == log.store.epoch
            copied = [done for what, done, _ in seen if what == "copying"]
            assert copied == sorted(copied), "no commit made the backup start again"

    asyncio.run(run())
    copy = tmp_path / "copy.db"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert others(path) == {"copy.db"}, "nothing else is left beside it"
    found = offsets(copy)
    assert found == list(range(1, len(found) + 1))


def test_commits_go_on_during_a_backup(path: Path, tmp_path: Path) -> None:
    """A message can be committed in the middle of a backup: the writer does not wait for the backup to end."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(200, data=b"x" * 30_000)
            loop = asyncio.get_running_loop()
            committed: list[int] = []

            def progress(what: str, done: int, total: int) -> None:
                if what == "copying" and done < total:
                    committed.extend(asyncio.run_coroutine_threadsafe(log.keep(), loop).result(LONG))

            copy = await asyncio.to_thread(back_up, str(path), str(tmp_path / "copy.db"), progress=progress)
            assert committed
            assert copy.head == 200, "the copy is of the moment at which it began"

    asyncio.run(run())


def test_what_is_in_the_way_of_a_backup_stays(path: Path, tmp_path: Path) -> None:
    """An existing file is replaced only on request; the database's own files are never replaced."""
    filled(path)
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(ConfigError, match="exists: choose another file, or --force"):
        back_up(str(path), str(target))
    assert target.read_text() == "precious"
    assert back_up(str(path), str(target), replace=True).head == 100
    link = tmp_path / "link.db"
    link.symlink_to(path)
    hard = tmp_path / "hard.db"
    os.link(path, hard)
    for own in (path, link, hard, Path(f"{path}-wal"), Path(f"{path}.lock")):
        before = own.read_bytes() if own.exists() else None
        with pytest.raises(ConfigError, match="database itself"):
            back_up(str(path), str(own), replace=True)
        assert (own.read_bytes() if own.exists() else None) == before


def test_a_backup_that_fails_leaves_nothing(path: Path, tmp_path: Path) -> None:
    """A missing folder, a missing, foreign or damaged database, or an interruption gives a clear error and leaves no
    file."""
    for target, words in ((tmp_path / "no" / "copy.db", "folder"), (tmp_path, "is a folder")):
        filled(path)
        with pytest.raises(ConfigError, match=words):
            back_up(str(path), str(target))
    target = tmp_path / "copy.db"
    with pytest.raises(ConfigError, match="does not exist"):
        back_up(str(tmp_path / "missing.db"), str(target))
    for place in (tmp_path, Path("/dev/zero")):  # an empty database, if it were read
        with pytest.raises(ConfigError, match=f"{place} is (a folder|not a file)"):
            back_up(str(place), str(target))
        with pytest.raises(ConfigError, match=f"{place} is (a folder|not a file)"):
            restore(str(path), str(place))
    foreign = tmp_path / "foreign.db"
    change(foreign, "CREATE TABLE bills (amount)")
    with pytest.raises(ConfigError, match="another program"):
        back_up(str(foreign), str(target))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(str(path), str(target), progress=interrupt)
    change(path, "UPDATE log SET data = x'32' WHERE offset = 77")
    with pytest.raises(ConfigError, match=r"damaged \(the message at offset 77"):
        back_up(str(path), str(target))
    assert others(path) == {"foreign.db"}


def test_a_full_disk_leaves_no_backup(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk has no room for the copy, the error says so, and the partial copy is removed."""
    filled(path)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(ConfigError, match="No space left"):
        back_up(str(path), str(tmp_path / "copy.db"))
    assert others(path) == set()


# Restore


def test_a_restored_log_has_a_new_epoch(path: Path, tmp_path: Path) -> None:
    """A client that was beyond the backup is told that something is missing, also when the log has grown past that
    place again; one that resumes from a position of the new epoch gets everything; offsets go on (hostile 9, guarantee
    3)."""
    backup = tmp_path / "copy.db"

    async def before() -> list[Position]:
        async with opened(path) as log:
            await log.keep(10)
            await asyncio.to_thread(back_up, str(path), str(backup))
            await log.keep(10)
            return [Position(log.store.epoch, offset) for offset in (0, 5, 10, 15, 20)]

    old = asyncio.run(before())
    copy = restore(str(backup), str(path), replace=True)
    assert copy.epoch != old[0].epoch
    assert copy.head == 10

    async def after() -> None:
        async with hubbed(path) as (hub, store):
            assert (store.epoch, store.head) == (copy.epoch, 10)
            assert await published(hub, *(Draft("cats", b"1", f"n{n}") for n in range(15))) == list(range(11, 26))
            view = View(frozenset(("cats",)))
            for position in old:
                start = await find_start(hub, store, view, position)
                assert not start.recovered
                assert start.oldest == Position(copy.epoch, 0)
            assert (await find_start(hub, store, view, Position(copy.epoch, 7))).recovered

    asyncio.run(after())
    assert offsets(path) == list(range(1, 26))


@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_revoked_stays_revoked(path: Path, tmp_path: Path, damaged: bool) -> None:
    """A token that was revoked after the backup is revoked in the restored database, too, and the later of two times
    wins; a database that cannot be read is put aside all the same."""
    backup = tmp_path / "copy.db"
    first = [("jti", "early", 100.0), ("sub", "alice", 50.0)]

    def write(*changes: tuple[str, str, float]) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)", changes)

    async def fill() -> None:
        async with opened(path) as log:
            await log.keep(3)

    asyncio.run(fill())
    write(*first)
    back_up(str(path), str(backup))
    write(("sub", "alice", 200.0), ("jti", "late", 300.0))
    if damaged:
        path.write_bytes(b"no database any more")
    restore(str(backup), str(path), replace=True)
    expected = first if damaged else [("jti", "early", 100.0), ("jti", "late", 300.0), ("sub", "alice", 200.0)]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM revocations ORDER BY kind, name").fetchall() == expected


def test_the_old_database_is_kept(path: Path, tmp_path: Path) -> None:
    """A restore over an existing database is refused; with `replace` the old one is kept aside, whole, with what only
    its write-ahead log held."""
    backup = tmp_path / "copy.db"
    filled(path, 10)
    back_up(str(path), str(backup))
    filled(path, 5)

    async def crash_with_wal() -> None:
        async with opened(path) as log:
            await log.keep(7)
            for end in ("", "-wal"):
                (tmp_path / f"crashed{end}").write_bytes(Path(f"{path}{end}").read_bytes())

    asyncio.run(crash_with_wal())
    for end in ("", "-wal"):
        os.replace(tmp_path / f"crashed{end}", f"{path}{end}")
    with pytest.raises(ConfigError, match="exists: --force"):
        restore(str(backup), str(path))
    copy = restore(str(backup), str(path), replace=True)
    assert copy.kept is not None
    assert copy.kept.startswith(f"{path}.before-")
    assert offsets(path) == list(range(1, 11))
    assert offsets(Path(copy.kept)) == list(range(1, 23))
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(Path(copy.kept).stat().st_mode) == 0o600


def test_restoring_where_nothing_is(path: Path, tmp_path: Path) -> None:
    """If there is no database, the backup becomes the database, and nothing is kept aside."""
    filled(path, 10)
    back_up(str(path), str(tmp_path / "copy.db"))
    new = tmp_path / "new.db"
    assert restore(str(tmp_path / "copy.db"), str(new)).kept is None
    assert offsets(new) == list(range(1, 11))


def test_a_running_server_is_not_restored_over(path: Path, tmp_path: Path) -> None:
    """While a server has the database, a restore is refused and changes nothing (hostile 7)."""
    filled(path, 10)
    back_up(str(path), str(tmp_path / "copy.db"))

    async def run() -> None:
        async with opened(path) as log:
            with pytest.raises(ConfigError, match=rf"in use by another server \(process {os.getpid()}\)"):
                await asyncio.to_thread(restore, str(tmp_path / "copy.db"), str(path), replace=True)
            assert await log.keep() == [11]

    asyncio.run(run())
    assert offsets(path) == list(range(1, 12))


@pytest.mark.parametrize("damage", one_in(4, ["row", "page", "cut", "foreign", "newer", "empty", "missing", "itself"]))
def test_a_bad_backup_touches_nothing(path: Path, tmp_path: Path, damage: str) -> None:
    """A backup that is damaged anywhere, made by another program or a newer Partyline, or missing is refused, and the
    database stays byte for byte the same (hostile 4)."""
    filled(path, 12_000)
    backup = tmp_path / "copy.db"
    back_up(str(path), str(backup))
    if damage == "row":  # older than the messages that a start verifies
        change(backup, "UPDATE log SET data = x'32' WHERE offset = 3")
    elif damage == "page":
        content = bytearray(backup.read_bytes())
        content[40_960:45_056] = b"\x00" * 4_096
        backup.write_bytes(content)
    elif damage == "cut":
        backup.write_bytes(backup.read_bytes()[:200_000])
    elif damage == "foreign":
        backup = tmp_path / "foreign.db"
        change(backup, "CREATE TABLE bills (amount)")
    elif damage == "newer":
        change(backup, "PRAGMA user_version = 1000")
    elif damage == "empty":
        backup.write_bytes(b"")
    elif damage == "missing":
        backup.unlink()
    else:
        backup = path
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        restore(str(backup), str(path), replace=True)
    assert path.read_bytes() == before
    assert not [name for name in others(path) if "before" in name or "partial" in name or "restored" in name]
    if damage == "row":
        assert "offset 3 " in caught.value.message
    assert lock.holder(str(path)) is None


@pytest.mark.check
def test_a_restore_that_is_killed(path: Path, tmp_path: Path) -> None:
    """A restore that is killed before any of its steps leaves either the old or the new database in place, whole; once
    the new one is there, the old one is kept aside."""
    backup = tmp_path / "copy.db"
    filled(path, 10)
    back_up(str(path), str(backup))
    filled(path, 5)
    original = path.read_bytes()
    verdicts: list[str] = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        place = folder / "partyline.db"
        place.write_bytes(original)
        done = subprocess.run(
            [sys.executable, "-m", "tests.stores.sqlite.restorer", str(backup), str(place), str(step)],
            env=environment(),
            check=False,
            capture_output=True,
        )
        found = offsets(place)
        assert found in (list(range(1, 11)), list(range(1, 16))), found
        verdicts.append("new" if len(found) == 10 else "old")
        if verdicts[-1] == "new":
            (kept,) = [one for one in folder.iterdir() if ".before-" in one.name and not one.name.endswith("-shm")]
            assert offsets(kept) == list(range(1, 16))
        assert not Path(f"{place}{opening.RESTORED}").exists()
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
    assert done.returncode == 0
    assert verdicts == sorted(verdicts, reverse=True), "once the new database is in place, it stays"
    assert verdicts.count("old") >= 3
    assert verdicts.count("new") >= 4


def test_an_old_write_ahead_log_never_meets_the_restored_database(path: Path, tmp_path: Path) -> None:
    """After a crash between putting aside the old file and its write-ahead log, the next start finishes the job."""
    backup = tmp_path / "copy.db"
    filled(path, 10)
    back_up(str(path), str(backup))

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(300, data=b"x" * 1_000)
            for end in ("", "-wal"):
                (tmp_path / f"crashed{end}").write_bytes(Path(f"{path}{end}").read_bytes())

    asyncio.run(run())
    assert (tmp_path / "crashed-wal").stat().st_size > 100_000
    os.replace(tmp_path / "crashed-wal", f"{path}-wal")
    path.unlink()
    os.replace(backup, f"{path}{opening.RESTORED}")
    assert offsets(path) == list(range(1, 11))


# A new epoch


def test_a_deliberate_new_epoch(path: Path) -> None:
    """A start with a new epoch keeps every message and every offset, and accepts no earlier position."""
    epoch = filled(path, 10)

    async def run() -> None:
        async with hubbed(path, new_epoch=True) as (hub, store):
            assert store.epoch != epoch
            assert await published(hub, Draft("cats", b"1", "new")) == [11]
            start = await find_start(hub, store, View(frozenset(("cats",))), Position(epoch, 10))
            assert (start.recovered, start.oldest) == (False, Position(store.epoch, 0))
            renewed.append(store.epoch)

    renewed: list[str] = []
    asyncio.run(run())
    assert rows(path, "SELECT epoch FROM store") == [(renewed[0],)]
    assert offsets(path) == list(range(1, 12))


def test_a_backup_can_be_looked_at_where_nothing_can_be_written(path: Path, tmp_path: Path) -> None:
    """A backup is not in WAL mode: reading it makes no file beside it."""
    filled(path, 10)
    folder = tmp_path / "safe"
    folder.mkdir()
    back_up(str(path), str(folder / "copy.db"))
    with contextlib.closing(sqlite3.connect(f"file:{folder}/copy.db?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (10,)
        assert [one.name for one in folder.iterdir()] == ["copy.db"]
