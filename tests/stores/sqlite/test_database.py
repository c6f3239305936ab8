"""The database file: who may use it, what it may contain, and how jobs reach it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partyline.errors import ConfigError
from partyline.findings import Verdict
from partyline.metrics import Counters
from partyline.stores.sqlite import database as module
from partyline.stores.sqlite.copying import back_up, restore
from partyline.stores.sqlite.database import SCHEMA_VERSION, Database
from partyline.stores.sqlite.examining import examine
from partyline.stores.sqlite.lock import take_over
from partyline.stores.sqlite.registrations import RegistrationTable, Row

from .conftest import Open
from .writer import LONG, Disk, Gate, Setback, query, settled

NOTE = "INSERT INTO notes VALUES (?)"


def notes(connection: sqlite3.Connection) -> None:
    """A job: a table for the jobs of these tests."""
    connection.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")


class Note:
    """A job that writes a row, and counts how often it ran."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.runs = 0

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.runs += 1
        connection.execute(NOTE, (self.text,))


def noted(path: Path) -> list[object]:
    return [text for (text,) in query(path, "SELECT text FROM notes ORDER BY rowid")]


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Drop the rights of root, whom no file mode keeps out."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def make(path: Path, script: str) -> None:
    """Make a database as another program would."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def refused(path: Path | str) -> str:
    """The message with which a file is refused; its lock is free afterwards."""
    with pytest.raises(ConfigError) as caught:
        Database(str(path), Counters(), busy_timeout=0.01)
    assert caught.value.field == "db"
    lock = Path(f"{path}.lock")
    if lock.exists():
        with open(lock) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return caught.value.message


# A new file


def test_a_new_database_is_private(path: Path, opened: Open) -> None:
    """Only the owner can read and write the database and every file beside it, whatever the umask."""
    earlier = os.umask(0)
    try:
        database = opened()
        database.submit(notes)
        settled(database)
        modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    finally:
        os.umask(earlier)
    assert set(modes) == {path.name, f"{path.name}.lock", f"{path.name}-wal", f"{path.name}-shm"}
    assert set(modes.values()) == {0o600}


def test_a_wider_database_is_made_private(path: Path, opened: Open) -> None:
    """Opening a database of ours takes away the others' right to read it; a foreign database keeps its mode."""
    opened().close()
    path.chmod(0o644)
    opened().close()
    assert path.stat().st_mode & 0o777 == 0o600
    foreign = path.with_name("foreign.db")
    make(foreign, "CREATE TABLE customers (name TEXT)")
    foreign.chmod(0o644)
    refused(foreign)
    assert foreign.stat().st_mode & 0o777 == 0o644


def test_a_new_database_has_our_schema(path: Path, opened: Open) -> None:
    """A new file gets the schema and its version, in WAL."""
    opened().close()
    assert query(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    tables = {name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"registrations", "store"} <= tables
    assert query(path, "SELECT count(*) FROM store") == [(1,)]


def test_commits_are_synchronous(opened: Open) -> None:
    """The writer's connection commits with synchronous=FULL, and the database says so to people."""
    database = opened()
    seen: list[object] = []
    database.submit(lambda connection: seen.extend(connection.execute("PRAGMA synchronous").fetchone()))
    settled(database)
    assert seen == [2]
    assert "FULL" in database.sync_mode


def test_an_empty_file_becomes_a_database(path: Path, opened: Open) -> None:
    """An empty file, as `mktemp` leaves it, is a new database."""
    path.touch()
    opened().close()
    assert query(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_opening_again_changes_nothing(path: Path, opened: Open) -> None:
    """A database keeps its content when it is opened again."""
    database = opened()
    database.submit(notes)
    database.submit(Note("kept"))
    database.close()
    created = query(path, "SELECT created FROM store")
    opened().close()
    assert noted(path) == ["kept"]
    assert query(path, "SELECT created FROM store") == created


def test_memory_is_a_database_without_a_file(tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """`:memory:` works like any other database and leaves no file, not even a lock."""
    monkeypatch.chdir(tmp_path)
    one, two = opened(":memory:"), opened(":memory:")
    one.submit(notes)
    one.submit(Note("here"))
    settled(one)
    assert one.rows("SELECT text FROM notes") == [("here",)]
    assert two.rows("SELECT count(*) FROM sqlite_master WHERE name = 'notes'") == [(0,)]
    assert "FULL" not in one.sync_mode
    assert list(tmp_path.iterdir()) == []


# The lock


def test_a_second_server_is_refused(path: Path, opened: Open) -> None:
    """A second server on one file is refused, as often as it tries, and the first goes on (hostile 7)."""
    first = opened()
    first.submit(notes)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^db: .*partyline\.db is in use by another server.*--db"):
            Database(str(path), Counters())
    first.submit(Note("goes on"))
    settled(first)
    assert noted(path) == ["goes on"]


def test_the_lock_goes_with_the_server(opened: Open) -> None:
    """After close another server may open the file at once."""
    opened().close()
    opened()


# Files that are refused


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder in place of the file is refused as a folder."""
    assert "is a folder" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "link"])
def test_what_is_not_a_file_is_refused(path: Path, kind: str) -> None:
    """A device, a pipe, a socket or a link to one in place of the file is refused, and no lock is left beside it."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "link":
        path.symlink_to("/dev/zero")
    name = Path("/dev/zero") if kind == "device" else path
    place = os.path.realpath(name)
    assert f"{place} is not a file: name one with --db" in refused(name)
    assert not Path(f"{place}.lock").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """If the file's folder does not exist, the message names the folder, and nothing is created."""
    message = refused(tmp_path / "nowhere" / "partyline.db")
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in message
    assert list(tmp_path.iterdir()) == []


def test_a_link_into_a_missing_folder(path: Path, tmp_path: Path) -> None:
    """If the file that a link leads to has no folder, that one is named, not the folder of the link."""
    path.symlink_to(tmp_path / "nowhere" / "partyline.db")
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in refused(path)
    with pytest.raises(ConfigError, match=f"the folder {tmp_path / 'nowhere'} does not exist"):
        asyncio.run(take_over(str(path), 1.0))


def test_a_folder_that_cannot_be_written() -> None:
    """A database on a disk that has become read-only, or in a folder of another user, is backed up and examined if its
    server was stopped in order; after a crash the message says how to get at it."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as safe:
        path, folder = Path(name) / "p.db", Path(name)
        Path(safe).chmod(0o777)
        folder.chmod(0o755)
        database = Database(str(path), Counters())
        database.submit(notes)
        settled(database)
        crashed = folder / "crashed.db"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
        database.close()
        folder.joinpath("p.db.lock").unlink()
        for one in folder.iterdir():
            one.chmod(0o644)
        with nobody() if os.geteuid() == 0 else unwritable(folder):
            back_up(str(path), f"{safe}/copy.db")
            found = {one.subject: one for one in examine(str(path))}
            assert found["structure"].verdict is Verdict.OK
            with pytest.raises(ConfigError, match=r"without writing beside it.* with its -wal file"):
                back_up(str(crashed), f"{safe}/other.db")


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A path that goes through a file is refused with the system's reason."""
    (tmp_path / "file").touch()
    assert "cannot be opened" in refused(tmp_path / "file" / "partyline.db")


def test_an_unreadable_file_is_refused(path: Path, opened: Open) -> None:
    """A file to which this user has no rights is refused with the way out."""
    opened().close()
    path.chmod(0)
    with nobody(), pytest.raises(ConfigError, match=r"cannot be read and written by this user.*--db"):
        Database(str(path), Counters())


@pytest.mark.parametrize("content", [b"x" * 16, b"just a text\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_another_format_is_refused(path: Path, content: bytes) -> None:
    """A file that is not an SQLite database is refused and stays unchanged."""
    path.write_bytes(content)
    assert "is not an SQLite database" in refused(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE customers (name TEXT);",
        "CREATE TABLE customers (name TEXT); PRAGMA user_version = 1;",
        "CREATE TABLE customers (name TEXT); PRAGMA user_version = -7;",
        "CREATE TABLE store (name TEXT); PRAGMA user_version = 1;",
        "PRAGMA user_version = 1;",
    ],
    ids=["no version", "our version", "a negative version", "our version and a table of ours", "our version, empty"],
)
def test_a_database_of_another_program_is_refused(path: Path, script: str) -> None:
    """Another program's database is refused as such, also if its version number happens to be one of ours."""
    make(path, script)
    message = refused(path)
    assert "a database of another program" in message
    assert "--db" in message


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_a_refused_database_is_left_as_it_was(path: Path, version: int) -> None:
    """A refused database keeps every byte, because it belongs to somebody else."""
    make(path, f"CREATE TABLE customers (name TEXT); PRAGMA user_version = {version};")
    before = path.read_bytes()
    refused(path)
    assert path.read_bytes() == before


FOREIGN = {
    "a text": b"just a text\n" * 500,
    "no version": "CREATE TABLE customers (name TEXT);",
    "a version": "CREATE TABLE customers (name TEXT); PRAGMA user_version = 1;",
    "an application": "CREATE TABLE customers (name TEXT); PRAGMA application_id = 7;",
    "with a log": "PRAGMA journal_mode = WAL; CREATE TABLE customers (name TEXT);",
    "unreadable": b"",
}


OPENING: dict[str, Callable[[str, str, str], object]] = {
    "opening it": lambda path, good, new: Database(path, Counters()),
    "waiting for it": lambda path, good, new: asyncio.run(take_over(path, 1.0)),
    "restoring to it": lambda path, good, new: restore(good, path),
    "restoring it": lambda path, good, new: restore(path, new),
}


@pytest.mark.parametrize("by", OPENING)
@pytest.mark.parametrize("kind", FOREIGN)
def test_nothing_is_left_beside_what_is_not_ours(kind: str, by: str) -> None:
    """A file that is not ours is refused before anything is made beside it, not even a lock: by a server, by one that
    would wait for another to finish, and by a restore, whose new place stays free."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, other = folder / "p.db", folder / "other.db"
        content = FOREIGN[kind]
        if isinstance(content, str):
            make(path, content)
        else:
            path.write_bytes(content)
        Database(str(other), Counters()).close()
        folder.chmod(0o777)
        other.chmod(0o644)
        path.chmod(0 if kind == "unreadable" else 0o666)
        there = set(folder.iterdir())
        with nobody(), pytest.raises(ConfigError):
            OPENING[by](str(path), str(other), str(folder / "new.db"))
        assert set(folder.iterdir()) == there


def test_a_restore_replaces_what_is_not_a_database(path: Path, tmp_path: Path) -> None:
    """With --force a backup takes the place of a file that is damaged beyond recognition, and a restore that was
    interrupted there is completed by the next start."""
    good, backup = tmp_path / "good.db", tmp_path / "backup.db"
    Database(str(good), Counters()).close()
    back_up(str(good), str(backup))
    path.write_bytes(b"x" * 5000)
    assert restore(str(backup), str(path), replace=True).kept is not None
    path.write_bytes(b"x" * 5000)
    shutil.copy(backup, f"{path}.restored")
    Database(str(path), Counters()).close()
    assert query(path, "SELECT count(*) FROM store") == [(1,)]


def test_a_newer_database_is_refused(path: Path, opened: Open) -> None:
    """A database of a newer Partyline is refused with both versions and the way out."""
    opened().close()
    make(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    message = refused(path)
    assert "a newer Partyline" in message
    assert f"schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}" in message
    assert "upgrade" in message


def test_a_database_in_use_by_another_program_is_refused(path: Path) -> None:
    """A file that another program holds for itself is refused with SQLite's reason, after the busy timeout."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # still empty, so it might become ours
        assert "locked" in refused(path)


def hashed(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database whose registrations take several pages."""
    path = tmp_path_factory.mktemp("filled") / "partyline.db"
    database = Database(str(path), Counters())
    table = RegistrationTable(database)
    for number in range(300):
        table.save(Row(hashed(number), str(number), ("cats", "dogs"), (">",), False, 1.0))
    database.close()
    return path


def pages(path: Path) -> dict[str, int]:
    """The places in the file of the pages that a start has to read."""
    ((size,),) = query(path, "PRAGMA page_size")
    ((root,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'registrations'")
    assert isinstance(size, int)
    assert isinstance(root, int)
    content = path.read_bytes()
    rows = {content.index(hashed(number)) // size for number in range(300)}
    assert len(rows) > 3
    return {"head": 0, "root": (root - 1) * size, "some rows": min(rows) * size, "other rows": max(rows) * size}


@pytest.mark.parametrize("page", ["head", "root", "some rows", "other rows"])
@pytest.mark.parametrize("damage", ["zeros", "ones", "cut"])
def test_a_damaged_database_is_refused(path: Path, filled: Path, page: str, damage: str) -> None:
    """A database with an overwritten or missing page is refused with a clear message, at the latest when the
    registrations are read, and is never half served (guarantee 7, hostile 4)."""
    shutil.copy(filled, path)
    content, start = bytearray(path.read_bytes()), pages(filled)[page]
    if damage == "cut":
        del content[start + 100 :]
    else:
        content[start : start + 4096] = (b"\0" if damage == "zeros" else b"\xff") * 4096
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        open_and_load(path)
    assert caught.value.field == "db"
    assert str(path) in caught.value.message


def test_registrations_that_make_no_sense_are_refused(path: Path, filled: Path) -> None:
    """A row whose text is not what we wrote means a damaged database, too."""
    shutil.copy(filled, path)
    make(path, "UPDATE registrations SET topics = '[\"cats' WHERE user = '7'")
    with pytest.raises(ConfigError) as caught:
        open_and_load(path)
    assert caught.value.field == "db"


def open_and_load(path: Path) -> list[Row]:
    """What a start does with a database."""
    database = Database(str(path), Counters(), busy_timeout=0.01)
    try:
        return list(RegistrationTable(database).load())
    finally:
        database.close()


# Migrations


# The schemas of earlier versions, unchanged. A new version copies its `sqlite.sql` here for the next one.
EARLIER = {
    1: """
PRAGMA application_id = 1349282158;
CREATE TABLE store (id INTEGER PRIMARY KEY CHECK (id = 1), created REAL NOT NULL) STRICT;
CREATE TABLE registrations (
  id_hash BLOB PRIMARY KEY, user TEXT NOT NULL, topics TEXT NOT NULL, grants TEXT NOT NULL,
  used INTEGER NOT NULL, created REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO store VALUES (1, 12.5);
""",
    2: """
PRAGMA application_id = 1349282158;
CREATE TABLE store (
  id INTEGER PRIMARY KEY CHECK (id = 1), created REAL NOT NULL, epoch TEXT NOT NULL, head INTEGER NOT NULL DEFAULT 0,
  forgotten INTEGER NOT NULL DEFAULT 0, probes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE registrations (
  id_hash BLOB PRIMARY KEY, user TEXT NOT NULL, topics TEXT NOT NULL, grants TEXT NOT NULL,
  used INTEGER NOT NULL, created REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
  offset INTEGER PRIMARY KEY, room TEXT NOT NULL, identity INTEGER, time INTEGER NOT NULL, at INTEGER NOT NULL,
  head TEXT NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX log_by_room ON log (room);
CREATE INDEX log_by_identity ON log (identity) WHERE identity IS NOT NULL;
CREATE TABLE rooms (name TEXT PRIMARY KEY, pruned INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO store (id, created, epoch) VALUES (1, 12.5, '0123456789abcdef');
""",
    3: """
PRAGMA application_id = 1349282158;
CREATE TABLE store (
  id INTEGER PRIMARY KEY CHECK (id = 1), created REAL NOT NULL, epoch TEXT NOT NULL, head INTEGER NOT NULL DEFAULT 0,
  forgotten INTEGER NOT NULL DEFAULT 0, probes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE registrations (
  id_hash BLOB PRIMARY KEY, user TEXT NOT NULL, topics TEXT NOT NULL, grants TEXT NOT NULL,
  used INTEGER NOT NULL, created REAL NOT NULL, confirmed TEXT, token TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE revocations (
  kind TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
  offset INTEGER PRIMARY KEY, room TEXT NOT NULL, identity INTEGER, time INTEGER NOT NULL, at INTEGER NOT NULL,
  head TEXT NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX log_by_room ON log (room);
CREATE INDEX log_by_identity ON log (identity) WHERE identity IS NOT NULL;
CREATE TABLE forgotten (topic TEXT PRIMARY KEY, offset INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE rooms (name TEXT PRIMARY KEY, pruned INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO store (id, created, epoch) VALUES (1, 12.5, '0123456789abcdef');
""",
}
EARLIER[4] = f"""{EARLIER[3]}
CREATE TABLE sessions (
  pid_hash BLOB PRIMARY KEY, namespace TEXT NOT NULL, sid TEXT NOT NULL, rooms TEXT NOT NULL, data TEXT NOT NULL,
  start TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


def shape(path: Path) -> dict[object, object]:
    """The tables and indexes of a file with their columns, types and constraints."""
    named = query(path, "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    found: dict[object, object] = {}
    for kind, name, table in named:
        columns = f"PRAGMA table_xinfo({name})" if kind == "table" else f"PRAGMA index_xinfo({name})"
        found[kind, name, table] = query(path, columns)
    found["strict"] = query(path, "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    return found


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_every_earlier_schema_becomes_the_newest(tmp_path: Path, opened: Open, version: int) -> None:
    """A file of any earlier version has exactly the schema of a new file once it is opened, and keeps its rows."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    kept = Row(b"x" * 32, "ann", ("cats",), (">",), True, 2.5)
    make(old, f"{EARLIER[version]} PRAGMA user_version = {version};")
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO registrations (id_hash, user, topics, grants, used, created) VALUES (?, ?, ?, ?, ?, ?)",
            (kept.id_hash, kept.user, '["cats"]', '[">"]', 1, kept.created),
        )
    assert list(RegistrationTable(opened(old)).load()) == [kept]
    opened(new)
    assert shape(old) == shape(new)
    assert query(old, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert query(old, "SELECT id, created FROM store") == [(1, 12.5)]


def test_an_older_database_is_brought_up_to_date(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of an earlier version takes every step to the newest version once, and keeps its rows."""
    opened().close()
    last = SCHEMA_VERSION + 2
    monkeypatch.setattr(module, "SCHEMA_VERSION", last)
    monkeypatch.setitem(module.MIGRATIONS, last - 2, "CREATE TABLE first (n INTEGER); INSERT INTO first VALUES (1);")
    monkeypatch.setitem(module.MIGRATIONS, last - 1, "INSERT INTO first SELECT n + 1 FROM first;")
    for _ in range(2):
        opened().close()
        assert query(path, "SELECT n FROM first ORDER BY n") == [(1,), (2,)]
        assert query(path, "PRAGMA user_version") == [(last,)]
        assert query(path, "SELECT count(*) FROM store") == [(1,)]


def test_a_migration_that_fails_leaves_no_half(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step fails, the database is refused and still has the earlier version, with nothing of that step."""
    opened().close()
    monkeypatch.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(module.MIGRATIONS, SCHEMA_VERSION, "CREATE TABLE half (n INTEGER); CREATE TABLE store (n);")
    assert "store" in refused(path)
    assert query(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name = 'half'") == [(0,)]


# Jobs


def test_jobs_run_in_order_off_the_callers_thread(path: Path, opened: Open) -> None:
    """Jobs run in the order of submission, all on one thread that is not the caller's."""
    database = opened()
    threads: set[int] = set()
    database.submit(notes)
    for number in range(50):
        database.submit(Note(str(number)))
        database.submit(lambda connection: threads.add(threading.get_ident()))
    settled(database)
    assert noted(path) == [str(number) for number in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_submitting_waits_for_nothing(opened: Open) -> None:
    """Submitting returns at once even while the writer is held."""
    database, gate = opened(), Gate()
    database.submit(gate)
    gate.reached()
    database.submit(notes)
    gate.let_go()


def test_what_queued_up_is_one_transaction(path: Path, opened: Open) -> None:
    """Jobs submitted during a commit go into the next one together."""
    database, gate = opened(), Gate()
    begun: list[str] = []
    database.submit(notes)
    database.submit(lambda connection: connection.set_trace_callback(begun.append))
    settled(database)
    begun.clear()
    database.submit(gate)
    gate.reached()
    for number in range(100):
        database.submit(Note(str(number)))
    gate.let_go()
    settled(database)
    assert len(noted(path)) == 100
    transactions = [statement for statement in begun if statement.startswith("COMMIT")]
    assert 2 <= len(transactions) <= 3, "the gate's, the notes', and perhaps one for the job that waits for them"


def test_committed_means_others_can_read_it(path: Path, opened: Open) -> None:
    """When `committed` is called, another program finds the row in the file (guarantee 1)."""
    database = opened()
    database.submit(notes)
    seen: list[list[object]] = []
    done = threading.Event()

    def look() -> None:
        seen.append(noted(path))
        done.set()

    database.submit(Note("there"), look)
    assert done.wait(LONG)
    assert seen == [["there"]]


def test_a_refusing_disk_is_tried_again(path: Path, opened: Open, setback: Setback) -> None:
    """While commits fail nothing is reported as committed; afterwards every row is there once, and the failures are
    counted and logged (guarantee 7)."""
    counters = Counters()
    database = opened(counters=counters)
    database.submit(notes)
    settled(database)
    disk, gate, before, after, done = Disk(), Gate(), Note("before"), Note("after"), threading.Event()
    database.submit(gate)
    gate.reached()
    for job in (before, disk, after):
        database.submit(job, done.set if job is after else None)
    gate.let_go()
    setback.wait()
    assert not done.is_set()
    assert noted(path) == []
    assert counters.write_errors >= 1
    disk.refuses = False
    assert done.wait(LONG)
    assert noted(path) == ["before", "after"]
    assert query(path, "SELECT count(*) FROM large") == [(1,)]
    assert before.runs == counters.write_errors + 1
    assert after.runs == 1


def test_memory_that_refuses_is_tried_again(opened: Open, setback: Setback) -> None:
    """A failed commit in memory leaves nothing, and is tried again like one on a disk."""
    database, gate, disk, note = opened(":memory:"), Gate(), Disk(), Note("kept")
    database.submit(notes)
    database.submit(gate)
    gate.reached()
    database.submit(note)
    database.submit(disk)
    gate.let_go()
    setback.wait()
    disk.refuses = False
    settled(database)
    assert note.runs >= 2
    assert database.rows("SELECT text FROM notes") == [("kept",)]


def test_another_writer_only_delays(path: Path, opened: Open, setback: Setback) -> None:
    """While another program holds the file's write lock, commits are tried again until it lets go."""
    database = opened(busy_timeout=0.0)
    database.submit(notes)
    settled(database)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        database.submit(Note("later"))
        setback.wait()
        other.execute("ROLLBACK")
    settled(database)
    assert noted(path) == ["later"]


def test_a_callback_that_fails_stops_nothing(path: Path, opened: Open) -> None:
    """A `committed` that raises harms only its caller: the writer goes on."""
    database = opened()
    database.submit(notes)

    def broken() -> None:
        raise RuntimeError("the caller has gone")

    database.submit(Note("one"), broken)
    database.submit(Note("two"))
    done = threading.Event()
    database.submit(Note("three"), done.set)
    assert done.wait(2.0), "the writer is dead"
    assert noted(path) == ["one", "two", "three"]


# Flush and close


def test_flush_waits_for_the_commit(path: Path, opened: Open) -> None:
    """`flush` returns when everything submitted before it is in the file, and not while it is not."""
    database, gate = opened(), Gate()
    database.submit(notes)
    settled(database)
    database.submit(gate)
    database.submit(Note("flushed"))

    async def flush() -> None:
        flushing = asyncio.create_task(database.flush())
        gate.reached()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not flushing.done()
        gate.let_go()
        await asyncio.wait_for(flushing, LONG)
        assert noted(path) == ["flushed"]

    asyncio.run(flush())


def test_cancelling_flush_loses_nothing(path: Path, opened: Open) -> None:
    """A flush whose loop is closed before the commit harms neither the queued jobs nor the writer."""
    database, gate = opened(), Gate()
    database.submit(notes)
    settled(database)
    database.submit(gate)
    database.submit(Note("queued"))

    async def give_up() -> None:
        flushing = asyncio.create_task(database.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing

    asyncio.run(give_up())
    gate.let_go()
    done = threading.Event()
    database.submit(Note("later"), done.set)
    assert done.wait(2.0), "the writer is dead"
    assert noted(path) == ["queued", "later"]


def test_close_commits_what_is_queued(path: Path, opened: Open) -> None:
    """Jobs that are queued when the database is closed are committed before the file is released."""
    database, gate = opened(), Gate()
    database.submit(notes)
    database.submit(gate)
    gate.reached()
    for number in range(10):
        database.submit(Note(str(number)))
    closing = threading.Thread(target=database.close)
    closing.start()
    gate.let_go()
    closing.join(LONG)
    assert not closing.is_alive()
    assert noted(path) == [str(number) for number in range(10)]
    opened()


def test_close_gives_up_on_a_refusing_disk(path: Path, opened: Open, setback: Setback) -> None:
    """A disk that still refuses does not keep the process from ending: close returns, and the lock is free."""
    database = opened()

    def refuse(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    database.submit(refuse)
    setback.wait()
    database.close()
    assert query(path, "SELECT count(*) FROM store") == [(1,)]
    opened()


def test_closing_twice_does_nothing(path: Path, opened: Open) -> None:
    """A second close returns, and does not release the lock of whoever has the file now."""
    first = opened()
    first.close()
    opened()
    first.close()
    with pytest.raises(ConfigError, match="in use"):
        Database(str(path), Counters())


def test_a_damaged_schema_is_refused(path: Path, opened: Open) -> None:
    """A schema whose text cannot be read any more is reported as damage, though SQLite cannot even say why (hostile
    4)."""
    opened().close()
    content = bytearray(path.read_bytes())
    content[content.index(b"CREATE TABLE log")] = 0xFF
    path.write_bytes(content)
    assert "is damaged" in refused(path)
