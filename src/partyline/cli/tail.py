"""`partyline tail`: prints the messages of topics as they come."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import msgspec
from rich.console import Console
from rich.text import Text

from partyline.cli.output import console, write
from partyline.cli.remote import run
from partyline.cli.shown import moment, plain, printable_json
from partyline.client import Gap, Message, State, Subscription, connect
from partyline.errors import PartylineError
from partyline.topics import check_pattern, contains

_WAITING = 100  # messages between the line and the terminal


def follow(url: str, topics: list[str], *, after: str, key: str | None, count: int | None, as_json: bool) -> None:
    """Print `count` messages, or go on for ever. A lost connection is reported on standard error."""
    errors = Console(stderr=True)
    lost = False

    def on_state(state: State, reason: str) -> None:
        nonlocal lost
        if state is State.WAITING and not lost:
            lost = True
            errors.print(
                f"partyline: the connection is lost ({plain(reason)}): trying again", style="yellow", markup=False
            )
        elif state is State.OPEN and lost:
            lost = False
            errors.print("partyline: connected again", style="green")

    async def main() -> None:
        queue: asyncio.Queue[Message | Gap] = asyncio.Queue(_WAITING)
        wanted = [
            one for one in dict.fromkeys(topics) if not any(contains(all_, one) for all_ in topics if all_ != one)
        ]
        async with connect(url, token=key, on_state=on_state, open_timeout=0) as line, asyncio.TaskGroup() as readers:
            subscriptions = [line.subscribe(check_pattern(topic, "topic"), after=after, gaps=True) for topic in wanted]
            tasks = [readers.create_task(_read(one, queue)) for one in subscriptions]
            printer = _Printer(errors, as_json=as_json)
            left = count
            while left is None or left > 0:
                item = await queue.get()
                printer.show(item)
                if left is not None and isinstance(item, Message):
                    left -= 1
            for task in tasks:
                task.cancel()

    async def unwrapped() -> None:
        try:
            await main()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    run(unwrapped(), url, key)


async def _read(subscription: Subscription[Message | Gap], queue: asyncio.Queue[Message | Gap]) -> None:
    async for item in subscription:
        await queue.put(item)


class _Printer:
    """Writes messages, one per line."""

    def __init__(self, errors: Console, *, as_json: bool) -> None:
        self._errors = errors
        self._as_json = as_json
        self._console = console(soft_wrap=True)

    def show(self, item: Message | Gap) -> None:
        if isinstance(item, Gap):
            oldest = (
                "the oldest position kept is unknown"
                if item.oldest is None
                else f"{item.oldest} is the oldest position kept"
            )
            self._errors.print(
                f"partyline: messages of {plain(item.topic)} were missed; {oldest}", style="bold red", markup=False
            )
            if self._as_json:
                known = None if item.oldest is None else str(item.oldest)
                self._write({"gap": item.topic, "oldest": known, "position": str(item.position)})
        elif self._as_json:
            fields = {"from": item.sender, "user_id": item.user, "key": item.key}
            self._write(
                {
                    "topic": item.topic,
                    "position": None if item.position is None else str(item.position),
                    "id": item.id,
                    "time": item.time,
                    "data": msgspec.Raw(item.raw),
                    **{name: value for name, value in fields.items() if value is not None},
                }
            )
        else:
            line = Text(self._moment(item.time) + " ", style="dim")
            line.append(plain(item.topic) + " ", style="cyan")
            if item.sender is not None:
                line.append(plain(item.sender) + ": ", style="magenta")
            line.append(plain(_text(item)), style="none")
            self._console.print(line)

    def _moment(self, time: float) -> str:
        """Local time; on a terminal with the date if it is not today's."""
        when = moment(time)
        if when is None:
            return "??:??:??"
        dated = self._console.is_terminal and when.date() != datetime.now().astimezone().date()
        return when.strftime("%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S")

    def _write(self, value: dict[str, object]) -> None:
        write(printable_json(msgspec.json.encode(value).decode()) + "\n")


def _text(message: Message) -> str:
    """A message's value in one line; the raw text if it cannot be read."""
    try:
        data = message.data
        return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError, PartylineError):
        return message.raw.decode(errors="replace")
