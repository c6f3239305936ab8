"""A database file that is taken away, replaced, or reached by two names; locks that children inherit (hostile 54)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Found, Refused
from partyline.metrics import Counters
from partyline.stores.sqlite import lock, place
from partyline.stores.sqlite.copying import restore
from partyline.stores.sqlite.database import Database
from tests.tools import one_in

from .conftest import Open
from .logs import LONG, LOOK_AFTER, Disk, Log, opened, rows
from .writer import Setback, settled

Act = Callable[[Path], object]


def moved(path: Path) -> Path:
    return path.with_name("moved.db")


def another(path: Path) -> None:
    """Put a database of another server in its place."""
    other = path.with_name("other.db")
    Database(str(other), Counters()).close()
    os.replace(other, path)


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("gone"))
    path.parent.mkdir()


TAKEN_AWAY = {
    "moved": lambda path: path.rename(moved(path)),
    "deleted": lambda path: path.unlink(),
    "replaced": another,
    "copied over by name": lambda path: (shutil.copy(path, moved(path)), os.replace(moved(path), path)),
    "its folder moved": folder_moved,
    "emptied": lambda path: os.truncate(path, 0),
    "overwritten": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "its write-ahead log deleted": lambda path: Path(f"{path}-wal").unlink(),
    "its write-ahead log replaced": lambda path: (
        Path(f"{path}-wal").rename(moved(path)),
        Path(f"{path}-wal").write_bytes(b""),
    ),
    "its write-ahead log overwritten": lambda path: Path(f"{path}-wal").write_bytes(os.urandom(9_000)),
    "its shared memory deleted": lambda path: Path(f"{path}-shm").unlink(),
    "everything deleted": lambda path: [file.unlink() for file in path.parent.glob(f"{path.name}*")],
}


async def noticed(log: Log) -> None:
    """Return when the store says that it takes nothing, which needs no publish."""
    async with asyncio.timeout(LONG):
        while log.store.refusal is None:
            await asyncio.sleep(LOOK_AFTER)


@pytest.mark.parametrize(("name", "act"), TAKEN_AWAY.items(), ids=TAKEN_AWAY.keys())
def test_no_message_is_accepted_that_would_be_gone(tmp_path: Path, name: str, act: Act, setback: Setback) -> None:
    """Once the file is not where its path leads, publishes are refused, this is logged, and what was accepted before
    can still be read (hostile 54)."""
    path = tmp_path / "place" / "partyline.db"
    path.parent.mkdir()

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(3)
            assert await log.offsets() == [1, 2, 3]
            act(path)
            await noticed(log)
            outcomes = await log.append(*(log.draft() for _ in range(4)))
            assert all(isinstance(o, Refused) and isinstance(o.error, StoreUnavailable) for o in outcomes)
            assert log.store.refusal is not None
            setback.wait()
            assert str(path) in " ".join(setback.lines)
            (outcome,) = await log.append(log.draft())
            assert isinstance(outcome, Refused), "the next publish is refused, too"
            if name not in ("emptied", "overwritten", "its write-ahead log overwritten"):
                assert await log.offsets() == [1, 2, 3]

    asyncio.run(run())


def test_a_shortened_write_ahead_log(path: Path) -> None:
    """If the write-ahead log is cut to nothing, the check after the next commit finds that, and everything from then on
    is refused (hostile 54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(3)
            os.truncate(f"{path}-wal", 0)
            await log.append(log.draft())
            await noticed(log)
            assert all(isinstance(o, Refused) for o in await log.append(log.draft(), log.draft()))

    asyncio.run(run())


def test_it_is_noticed_without_a_publish(path: Path) -> None:
    """A server to which nobody publishes also notices that its file is gone (hostile 54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep()
            path.rename(moved(path))
            await noticed(log)

    asyncio.run(run())


def test_the_answer_waits_for_the_look(path: Path) -> None:
    """A message whose commit was under way when the file went away is refused, and is found when the file is back
    (hostile 54)."""

    async def run() -> None:
        disk = Disk()
        async with opened(path, disk=disk) as log:
            disk.hold()
            log.store.append(log.draft())
            await disk.held()
            path.rename(moved(path))
            await asyncio.sleep(2 * LOOK_AFTER)  # so that a check is due
            disk.let_go()
            await log.answered(1)
            assert isinstance(log.outcomes[0], Refused)
            moved(path).rename(path)
            assert await log.accepted() == 2
            assert [outcome.message.offset for outcome in log.outcomes if isinstance(outcome, Found)] == [1]

    asyncio.run(run())


def test_put_back_it_goes_on(path: Path) -> None:
    """With the file back in its place publishing goes on by itself; messages that were refused meanwhile but are in the
    file are handed out as found, and offsets stay contiguous (hostile 54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(3)
            path.rename(moved(path))
            await noticed(log)
            outcomes = await log.append(log.draft(), log.draft())
            assert all(isinstance(outcome, Refused) for outcome in outcomes)
            moved(path).rename(path)
            again = await log.accepted()
            found = [outcome.message.offset for outcome in log.outcomes if isinstance(outcome, Found)]
            assert [1, 2, 3, *found, again] == log.handed_out == list(range(1, again + 1))
            assert log.store.refusal is None
        async with opened(path) as log:
            assert len(await log.offsets()) + len(await log.offsets("again")) == again

    asyncio.run(run())


def test_a_moved_file_is_whole(path: Path) -> None:
    """Everything accepted is in the moved file itself, without its write-ahead log, and after the server's end a
    database that was put in its place has taken nothing from it (hostile 54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(5)
            path.rename(moved(path))
            await noticed(log)
            other = path.with_name("other.db")
            async with opened(other) as another_log:
                await another_log.keep(2)
            other.rename(path)
        assert rows(moved(path), "SELECT count(*) FROM log") == [(5,)]
        async with opened(path) as log:
            assert await log.offsets() == [1, 2]

    asyncio.run(run())


def test_a_lost_write_ahead_log_loses_nothing(path: Path) -> None:
    """If the write-ahead log is deleted, what was accepted is there after a restart (hostile 54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(5)
            Path(f"{path}-wal").unlink()
            Path(f"{path}-shm").unlink()
            await noticed(log)
        async with opened(path) as log:
            assert set(range(1, 6)) <= set(await log.offsets())
            await log.keep()

    asyncio.run(run())


def test_a_deleted_file_can_be_rescued(path: Path, setback: Setback) -> None:
    """The log names the place where a deleted file can still be read; a copy from there is a whole database (hostile
    54)."""

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(5)
            path.unlink()
            await noticed(log)
            setback.wait()
            line = " ".join(setback.lines)
            where = line.partition("content: ")[2].partition(")")[0]
            shutil.copy(where, moved(path))
        async with opened(moved(path)) as log:
            assert await log.offsets() == [1, 2, 3, 4, 5]

    asyncio.run(run())


# Two names


def by_hard_link(path: Path) -> Path:
    other = path.parent / "b" / "partyline.db"
    other.parent.mkdir()
    os.link(path, other)
    return other


def by_symlink(path: Path) -> Path:
    other = path.parent / "b.db"
    other.symlink_to(path)
    return other


def without_its_lock_file(path: Path) -> Path:
    Path(f"{path}.lock").unlink()
    return path


def by_bind_mount(path: Path) -> Path:
    other = path.parent / "mounted.db"
    other.touch()
    if os.geteuid() or subprocess.run(["mount", "--bind", path, other], capture_output=True).returncode:
        pytest.skip("only root may mount")
    return other


def by_mounted_folder(path: Path) -> Path:
    other = path.parent / "mounted"
    other.mkdir()
    if os.geteuid() or subprocess.run(["mount", "--bind", path.parent, other], capture_output=True).returncode:
        pytest.skip("only root may mount")
    return other / path.name


_SECOND = """
import sys
from partyline.errors import ConfigError
from partyline.metrics import Counters
from partyline.stores.sqlite.database import Database
try:
    Database(sys.argv[1], Counters()).close()
except ConfigError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    "name",
    one_in(5, [by_hard_link, by_symlink, without_its_lock_file, by_bind_mount, by_mounted_folder]),
    ids=lambda f: f.__name__,
)
def test_one_file_has_one_server(path: Path, opened: Open, name: Callable[[Path], Path]) -> None:
    """By whatever name a second server opens the file, it is told that the file is in use, in another process as in
    this one, and the first server goes on and keeps its locks (hostile 7, 54)."""
    first = opened()
    settled(first)
    other = name(path)
    try:
        with pytest.raises(ConfigError, match=r"^db: .* is in use by another server.*--db"):
            Database(str(other), Counters())
        done = subprocess.run([sys.executable, "-c", _SECOND, str(other)], capture_output=True, text=True, timeout=60)
        assert "is in use by another server" in done.stdout, done
        if name is not without_its_lock_file:
            with closing(sqlite3.connect(path, timeout=0)) as beside:  # the last one to close would remove the log
                beside.execute("SELECT * FROM store").fetchall()
        assert Path(f"{path}-wal").exists()
        settled(first)
        first.close()
        Database(str(path), Counters()).close()
    finally:
        if name in (by_bind_mount, by_mounted_folder):
            subprocess.run(["umount", other if name is by_bind_mount else other.parent], check=True)


def test_a_second_name_is_said(path: Path, opened: Open, setback: Setback) -> None:
    """Opening a file with two hard links logs a warning, because its write-ahead log has only one name."""
    opened().close()
    by_hard_link(path)
    opened()
    assert "more than one name" in " ".join(setback.lines)


def test_a_restore_looks_at_the_file(path: Path, opened: Open, tmp_path: Path) -> None:
    """A restore is refused while a server has the file, even if its lock file is gone (hostile 54)."""
    backup = tmp_path / "backup.db"
    Database(str(backup), Counters()).close()
    opened()
    Path(f"{path}.lock").unlink()
    with pytest.raises(ConfigError, match="in use by another server"):
        restore(str(backup), str(path), replace=True)
    assert place.is_open(str(path))


# Children


def _forked(then: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        try:
            then()
            signal.pause()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("kind", one_in(2, ["fork", "exec"]))
def test_children_do_not_keep_the_lock(path: Path, kind: str) -> None:
    """A child that was forked or started by a server and outlives it does not keep the next server out, however the
    first one ended (hostile 54)."""
    code = f"""
import os, signal, subprocess, sys
from partyline.metrics import Counters
from partyline.stores.sqlite.database import Database
database = Database(sys.argv[1], Counters())
if {kind == "fork"}:
    child = os.fork()
    if not child:
        signal.pause()
else:
    child = subprocess.Popen(["sleep", "60"], close_fds=False).pid
if sys.argv[2] == "close":
    database.close()
print(child, flush=True)
os._exit(0)
"""
    for how in ("close", "kill"):
        done = subprocess.Popen([sys.executable, "-c", code, str(path), how], stdout=subprocess.PIPE, text=True)
        assert done.stdout is not None
        child = int(done.stdout.readline())
        done.stdout.close()
        assert done.wait(LONG) == 0
        try:
            os.kill(child, 0)
            Database(str(path), Counters()).close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_takes_nothing_away(path: Path, opened: Open) -> None:
    """A forked child that closes what it inherited does not release the server's lock (hostile 54)."""
    first = opened()
    settled(first)
    child = os.fork()
    if not child:
        try:
            first.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert lock.holder(str(path)) is not None
    assert place.is_open(str(path))
    settled(first)
