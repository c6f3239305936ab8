"""What tests do to a database's writer and file: hold the writer, wait for it, look at what it wrote."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from partyline.stores.sqlite.database import Database

LONG = 20.0  # seconds nothing here should ever take


class Gate:
    """A job that holds the writer until it is let go: what is submitted meanwhile queues up after it."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self._entered.set()
        assert self._open.wait(LONG)

    def reached(self) -> None:
        """Return when the writer has reached the gate."""
        assert self._entered.wait(LONG)

    def let_go(self) -> None:
        self._open.set()


class Disk:
    """A job that fails, as on a full disk, until there is room again."""

    def __init__(self) -> None:
        self.refuses = True

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {1 if self.refuses else 1_000_000}")
        connection.execute("CREATE TABLE IF NOT EXISTS large (data BLOB)")
        connection.execute("INSERT INTO large VALUES (zeroblob(200000))")


class Setback(logging.Handler):
    """Set when the writer logs that a commit failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._failed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {getattr(record, 'error', '')}")
        self._failed.set()

    def wait(self) -> None:
        """Return when a commit has failed."""
        assert self._failed.wait(LONG)


def settled(database: Database) -> None:
    """Return when everything submitted so far is committed."""
    done = threading.Event()
    database.submit(lambda connection: None, done.set)
    assert done.wait(LONG)


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()
