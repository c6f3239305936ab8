"""`partyline backup` and `partyline restore`: copies of the database, with a bar on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from partyline.cli.output import write
from partyline.cli.shown import plain, printable_json
from partyline.config import load
from partyline.errors import ConfigError
from partyline.stores.sqlite import copying


def back_up_database(file: str, flags: dict[str, Any], config: str | None, *, replace: bool, as_json: bool) -> None:
    """Copy the configured database to `file` and report it. Raises ConfigError."""
    path = _database(flags, config)
    with bar() as progress:
        copy = copying.back_up(path, file, replace=replace, progress=progress)
    _tell(copy, f"backed up {path} to {file}", as_json=as_json)


def restore_database(file: str, flags: dict[str, Any], config: str | None, *, replace: bool, as_json: bool) -> None:
    """Put the backup `file` in the configured database's place and report it. Raises ConfigError."""
    path = _database(flags, config)
    with bar() as progress:
        copy = copying.restore(file, path, replace=replace, progress=progress)
    _tell(copy, f"restored {path} from {file}", as_json=as_json)


@contextlib.contextmanager
def bar() -> Iterator[copying.Progress | None]:
    """Shows progress on standard error and disappears at the end; None if that is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        task = shown.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total or None)

        yield progress


def _database(flags: dict[str, Any], config: str | None) -> str:
    path = str(load(flags, file=config).value("db"))
    if path == ":memory:":
        raise ConfigError("db: :memory: ends with its process: name a file with --db", field="db")
    return path


def _tell(copy: copying.Copy, done: str, *, as_json: bool) -> None:
    if as_json:
        write(printable_json(msgspec.json.encode(copy).decode()) + "\n", done=done)
        return
    text = f"{done}: {copy.bytes:,} bytes, epoch {copy.epoch or '-'}, last offset {copy.head:,}\n"
    if copy.kept is not None:
        text += f"the old database is kept as {copy.kept}\n"
    write("".join(plain(line) + "\n" for line in text.splitlines()), done=done)
