"""`partyline publish`: one message, or one for each line of standard input."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import msgspec
import typer
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from partyline.cli.lines import MOST, Lines
from partyline.cli.output import write
from partyline.cli.remote import run
from partyline.cli.shown import plain, printable_json
from partyline.client import Line, connect
from partyline.errors import InvalidValue, PartylineError
from partyline.models import Receipt
from partyline.topics import check_topic
from partyline.wire.json import mend_surrogates

_AHEAD = 256  # lines that are read while the first of them is not answered


def publish_one(
    url: str, topic: str, message: str, *, user: str | None, key: str | None, is_json: bool, as_json: bool
) -> None:
    """Publish and print the message's position. Exits with 1 and one line if the server refuses."""
    data = _data(message, is_json=is_json)

    async def main() -> Receipt:
        async with connect(url, token=key, open_timeout=0) as line:
            return await line.publish(check_topic(topic), data, user=user)

    _say(run(main(), url, key), as_json=as_json)


def standard_input() -> str:
    """All of standard input. Raises InvalidValue if it is empty, too long or not text."""
    try:
        data = sys.stdin.buffer.read(MOST + 1)
        if len(data) > MOST:
            raise InvalidValue(
                f"standard input has more than {MOST} bytes: send a shorter message, or one per line with --lines"
            )
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue(f"standard input is not UTF-8: {error}") from None
    except OSError as error:
        raise InvalidValue(f"standard input cannot be read: {error.strerror}") from None
    if not text:
        raise InvalidValue("standard input is empty: give the message as an argument, '' for an empty one")
    return text


def publish_lines(
    url: str, topic: str, descriptor: int, *, user: str | None, key: str | None, is_json: bool, as_json: bool
) -> None:
    """Publish one message for each line of a file, in order; exits with 1 and one line at the first refusal.

    By then the lines before it are published; some after it may be.
    """
    columns = (TextColumn("publishing"), MofNCompleteColumn(), TimeElapsedColumn())

    async def main() -> int:
        async with connect(url, token=key, open_timeout=0) as line:
            with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task("", total=None)

                def told(receipt: Receipt, done: int) -> None:
                    progress.update(bar, completed=done)
                    if as_json:
                        _say(receipt, as_json=True)

                return await _send(line, topic, Lines(descriptor), user, told, is_json=is_json)

    count = run(main(), url, key)
    if not as_json:
        told = f"published {count:,} messages to {topic}"
        write(told + "\n", done=told)


async def _send(
    line: Line, topic: str, lines: Lines, user: str | None, told: Callable[[Receipt, int], None], *, is_json: bool
) -> int:
    """Publish each line, call `told` for each in order, and return how many there were. Raises PartylineError for the
    first that cannot be published, as soon as that is known, even while it waits for a line."""
    waiting: asyncio.Queue[asyncio.Task[Receipt] | PartylineError | None] = asyncio.Queue(_AHEAD)

    async def read() -> None:
        number = 0
        try:
            while (text := await lines.next()) is not None:
                number += 1
                data = _line(text, number, is_json=is_json)
                one = asyncio.create_task(_publish(line, topic, data, user, number))
                one.add_done_callback(_seen)
                await waiting.put(one)
        except InvalidValue as error:
            await waiting.put(error)
        await waiting.put(None)

    done = 0
    receipt: Receipt | None = None
    reading = asyncio.create_task(read())
    try:
        while (one := await waiting.get()) is not None:
            if isinstance(one, PartylineError):
                raise one
            receipt = await one
            done += 1
            told(receipt, done)
    except PartylineError as error:
        last = "" if receipt is None or receipt.position is None else f", the last one at {receipt.position}"
        error.message += f" (published before it: {done:,}{last})"
        raise
    finally:
        reading.cancel()
    return done


def _seen(task: asyncio.Task[Receipt]) -> None:
    """Retrieve the exception: nobody awaits the tasks after the first that fails."""
    if not task.cancelled():
        task.exception()


async def _publish(line: Line, topic: str, data: msgspec.Raw | str, user: str | None, number: int) -> Receipt:
    try:
        return await line.publish(check_topic(topic), data, user=user)
    except PartylineError as error:
        error.message = f"line {number}: {error.message}"
        raise


def _line(text: bytes, number: int, *, is_json: bool) -> msgspec.Raw | str:
    try:
        message = text.decode()
        return _json(message) if is_json else message
    except (ValueError, RecursionError) as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise InvalidValue(f"line {number} is not {what}: {error}") from None


def _data(text: str, *, is_json: bool) -> msgspec.Raw | str:
    try:
        return _json(text) if is_json else text
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="MESSAGE") from None


def _json(text: str) -> msgspec.Raw:
    """What the server takes, numbers as written: Python cannot read all of them. Raises ValueError, RecursionError."""
    return msgspec.json.decode(mend_surrogates(text.encode()), type=msgspec.Raw)


def _say(receipt: Receipt, *, as_json: bool) -> None:
    position = None if receipt.position is None else str(receipt.position)
    told = f"published to {plain(receipt.room)}" + (f" at {position}" if position else ", not kept")
    if as_json:
        fields = {"topic": receipt.room, "position": position, "id": receipt.id, "duplicate": receipt.duplicate}
        write(printable_json(json.dumps(fields, ensure_ascii=False)) + "\n", done=told)
    else:
        write(told + "\n", done=told)
