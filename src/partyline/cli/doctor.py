"""`partyline doctor`: looks for anything that would keep a server from running, or from keeping its promises."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import typer
from rich.table import Table

from partyline.checking import check
from partyline.cli.copies import bar
from partyline.cli.machine import examine_machine, settings_finding
from partyline.cli.output import console, write
from partyline.cli.shown import plain, printable_json
from partyline.config import Settings, load
from partyline.engines import check_bus
from partyline.engines import examine as examine_engine
from partyline.errors import ConfigError, StoreUnavailable
from partyline.findings import Finding, Verdict, ok, problem
from partyline.interfaces import Durability
from partyline.parts import require_durability
from partyline.stores.memory import MemoryStore
from partyline.stores.sqlite.copying import Progress
from partyline.stores.sqlite.examining import examine
from partyline.stores.sqlite.store import SqliteStore

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}


def diagnose(flags: dict[str, Any], assigned: dict[str, str], config: str | None, *, deep: bool, as_json: bool) -> None:
    """Print a finding for everything that was examined. Exits with 1 if one is a problem."""
    with bar() as progress:
        findings = list(_findings(flags, assigned, config, deep, progress))
    if as_json:
        write(printable_json(msgspec.json.encode({"findings": findings}).decode()) + "\n")
    elif sys.stdout.isatty():
        _table(findings)
    else:
        for one in findings:
            write(f"{one.verdict.value:<8} {one.subject:<12} {plain(one.text)}\n")
            if one.advice:
                write(f"{'':<8} {'':<12} to do: {one.advice}\n")
    if any(one.verdict is Verdict.PROBLEM for one in findings):
        raise typer.Exit(1)


def _findings(
    flags: dict[str, Any], assigned: dict[str, str], config: str | None, deep: bool, progress: Progress | None
) -> Iterator[Finding]:
    try:
        settings = load(flags, file=config, assigned=assigned).settings
        check(settings)
    except ConfigError as error:
        yield settings_finding(error)
        # Examine what does not need them, with the path that was given.
        settings = Settings(db=assigned.get("db") or flags["db"] or Settings().db)
    yield from examine_machine(settings)
    yield from _log(settings)
    if settings.db == ":memory:":
        yield ok("database", ":memory: keeps nothing")
    else:
        yield from examine(settings.db, deep=deep, progress=progress)


def _log(settings: Settings) -> Iterator[Finding]:
    """What the log keeps, and whether the engines that servers share can be had, and keep what is promised."""
    if settings.log is None:
        yield _durability(settings, (MemoryStore if settings.db == ":memory:" else SqliteStore).durability)
    else:
        yield from _engine(settings, "log")
    if settings.bus is not None:
        yield from _engine(settings, "bus")


def _engine(settings: Settings, field: str) -> Iterator[Finding]:
    try:
        if field == "bus":
            check_bus(settings)
        found = asyncio.run(examine_engine(settings, field))
    except ConfigError as error:
        yield settings_finding(error)
    except StoreUnavailable as error:
        advice = "start its engine, or let this machine reach it: the server goes on without it until then"
        yield problem(field, error.message, advice)
    else:
        yield from found.findings
        if found.durability is not None and field == "log":
            yield _durability(settings, found.durability)


def _durability(settings: Settings, durability: Durability) -> Finding:
    try:
        require_durability(settings, durability)
    except ConfigError as error:
        return settings_finding(error)
    return ok("durability", f"an accepted message survives {durability.survived}")


def _table(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        text = plain(one.text) + (f"\nto do: {one.advice}" if one.advice else "")
        table.add_row(one.verdict.value, one.subject, text, style=_STYLES[one.verdict] if one.advice else "")
    console().print(table)
