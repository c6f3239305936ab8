"""`partyline publish`: one message, or one for each line of standard input."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import typer
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from partyline.cli.line import fail, run
from partyline.client import Line, connect
from partyline.errors import PartylineError
from partyline.models import Receipt
from partyline.topics import check_topic

_AHEAD = 256  # lines that are read before the first of them is answered


def publish_one(
    url: str, topic: str, message: str, *, user: str | None, key: str | None, is_json: bool, as_json: bool
) -> None:
    """Publish and say where the message stands. Exits with 1 and one line where the server says no."""
    data = _data(message, is_json=is_json)

    async def main() -> Receipt:
        async with connect(url, token=key, open_timeout=0) as line:
            return await line.publish(check_topic(topic), data, user=user)

    _say(run(main(), url), as_json=as_json)


def publish_lines(
    url: str, topic: str, lines: Iterator[str], *, user: str | None, key: str | None, is_json: bool, as_json: bool
) -> None:
    """Publish one message for each line, in their order; exits with 1 and one line at the first that is refused."""

    async def main() -> int:
        waiting: deque[asyncio.Task[Receipt]] = deque()
        done = number = 0
        columns = (TextColumn("publishing"), MofNCompleteColumn(), TimeElapsedColumn())
        async with connect(url, token=key, open_timeout=0) as line:
            with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task("", total=None)
                while True:
                    # Standard input may block for as long as it likes: not on the loop, which answers pings.
                    text = await asyncio.to_thread(next, lines, None)
                    if text is not None:
                        number += 1
                        data = _data(text.rstrip("\n"), is_json=is_json, where=f"line {number}")
                        waiting.append(asyncio.create_task(_publish(line, topic, data, user, number)))
                    while waiting and (text is None or len(waiting) > _AHEAD or waiting[0].done()):
                        receipt = await waiting.popleft()
                        done += 1
                        progress.update(bar, completed=done)
                        if as_json:
                            _say(receipt, as_json=True)
                    if text is None:
                        return done

    count = run(main(), url)
    if not as_json:
        sys.stdout.write(f"published {count:,} messages to {topic}\n")


async def _publish(line: Line, topic: str, data: Any, user: str | None, number: int) -> Receipt:
    try:
        return await line.publish(check_topic(topic), data, user=user)
    except PartylineError as error:
        error.message = f"line {number}: {error.message}"
        raise


def _data(text: str, *, is_json: bool, where: str = "it") -> Any:
    if not is_json:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        if where == "it":
            raise typer.BadParameter(f"it is not JSON: {error}", param_hint="MESSAGE") from None
        fail(f"{where} is not JSON: {error}")


def _say(receipt: Receipt, *, as_json: bool) -> None:
    position = None if receipt.position is None else str(receipt.position)
    if as_json:
        told = {"topic": receipt.room, "position": position, "id": receipt.id, "duplicate": receipt.duplicate}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"published to {receipt.room}" + (f" at {position}" if position else ", not kept") + "\n")
