"""Shared by the commands that talk to a server: how they run, and how they fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer

from partyline.cli.shown import plain
from partyline.errors import Disconnected, PartylineError, Unauthenticated

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T], url: str, key: str | None = None) -> _T:
    """Run a command to its end. Exits with 1 and one line if the server refuses."""

    async def whole() -> _T:
        try:
            return await main
        finally:
            await asyncio.sleep(0)  # connections that were dropped are closed in the next turn of the loop

    try:
        return asyncio.run(whole())
    except Unauthenticated as error:
        if key is None:
            fail(f"{url}: the server wants a key or a token: give it one with --api-key or in PARTYLINE_KEY")
        fail(f"{url}: {error.message}: it came from --api-key or PARTYLINE_KEY")
    except PartylineError as error:
        if error.field == "url":
            raise  # not from the server: `main` prints it
        if error.code == "not_found":
            fail(f"{url}: {error.message}: give the server's own address, such as http://127.0.0.1:8000")
        if isinstance(error, Disconnected) or error.code == "refused":  # by something that is not Partyline
            fail(f"{url}: {error.message}; is `partyline serve` running there?")
        fail(error.message)


def fail(reason: str) -> NoReturn:
    """Print one line on standard error, and exit with 1. It may quote a server."""
    sys.stderr.write(f"partyline: {plain(reason)}\n")
    raise typer.Exit(1)
