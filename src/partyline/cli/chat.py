"""`partyline chat`: the chat in a terminal, in a room or with a stranger. Each typed line is sent."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from rich.text import Text

from partyline.cli.lines import Lines
from partyline.cli.output import console
from partyline.cli.remote import run
from partyline.cli.shown import moment, plain
from partyline.client import socketio
from partyline.client.socketio import Client, State
from partyline.errors import CallError, Disconnected, InvalidValue

_COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "green", "red")
_PAUSE: Final = 1.0  # seconds before a failed message is sent again
_LONGEST_WAIT: Final = 60.0  # seconds that the server may ask us to wait before a message
_REMEMBERED: Final = 10_000  # messages kept to avoid showing one twice, and people in a room
_IN_A_ROOM: Final = "/older for earlier messages, /who for who is here, /quit"
_WITH_A_STRANGER: Final = "/next for somebody else, /stop, /start, /block, /report, /quit"

_T = TypeVar("_T")


class _Person(msgspec.Struct):
    by: str
    name: str = "somebody"


class _Said(msgspec.Struct):
    """A message. `time` is in ms since 1970; a stranger's message has no id and no name."""

    text: str
    time: float
    id: str = ""
    by: str = ""
    name: str = "stranger"


class _Page(msgspec.Struct):
    messages: list[_Said]
    before: str | None


class _Entered(_Page):
    me: str
    people: list[_Person]
    count: int


class _News(_Person):
    """Somebody comes, leaves or types."""

    count: int = 0
    on: bool = False


def talk(url: str, *, room: str | None, name: str) -> None:
    """Chat until standard input ends or /quit is typed. `room` None: with a stranger."""
    screen = _Screen()
    run(_Room(url, screen, room, name).main() if room is not None else _Stranger(url, screen).main(), url)


class _Screen:
    """Prints what others say, and news about them."""

    def __init__(self) -> None:
        self._console = console(soft_wrap=True)

    def said(self, who: str, words: str, time: float, *, own: bool = False) -> None:
        """Print a message. `time` is in ms since 1970."""
        when = moment(time / 1000)
        line = Text("??:?? " if when is None else when.strftime("%H:%M "), style="dim")
        line.append(f"{plain(who)}: ", style="bold" if own else _COLOURS[sum(map(ord, who)) % len(_COLOURS)])
        first, *rest = words.split("\n")
        line.append(plain(first))
        for more in rest:
            line.append("\n      " + plain(more))
        self._console.print(line)

    def news(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(plain(text), style=style))


class _Session:
    """Common to rooms and strangers: a connection, and lines from standard input."""

    namespace = ""

    def __init__(self, url: str, screen: _Screen) -> None:
        self.key = secrets.token_hex(16)
        self._connecting = socketio.connect(url, self.namespace, auth={"key": self.key}, open_timeout=0)
        self.chat: Client = self._connecting.client
        self.screen = screen
        self._begun = False
        self._lost = False
        self._healing: asyncio.Future[None] | None = None

    async def main(self) -> None:
        self.chat.on_state(self._changed)
        self.listen()
        async with self._connecting:
            self._begun = True
            await self.begin()
            typed = Lines(sys.stdin.fileno())
            while (data := await typed.next()) is not None:
                line = data.decode(errors="replace")
                if line == "/quit":
                    return
                if line:
                    await self.line(line)

    def listen(self) -> None:
        """Listen to the server's events."""

    async def begin(self) -> None:
        """Called when it is connected for the first time."""

    async def again(self) -> None:
        """Called when it is connected again."""

    async def line(self, line: str) -> None:
        """Called with each typed line."""

    async def ask(self, event: str, *values: Any) -> dict[str, Any]:
        """The server's answer. Raises Disconnected, CallError, or InvalidValue with the server's refusal."""
        answer = await self.chat.call(event, *values)
        if isinstance(answer, dict) and "error" in answer:
            raise InvalidValue(str(answer.get("message", answer["error"])))
        return answer if isinstance(answer, dict) else {}

    def hear(self, event: str, kind: type[_T], heard: Callable[[_T], None]) -> None:
        """Call `heard` with an event's value, if it has the form that the chat's server sends."""

        def check(value: object = None) -> None:
            with contextlib.suppress(msgspec.ValidationError):
                heard(msgspec.convert(value, kind))

        self.chat.on(event, check)

    async def try_to_ask(self, event: str, *values: Any) -> dict[str, Any] | None:
        """As `ask`; but prints a refusal or a failure, and returns None."""
        try:
            return await self.ask(event, *values)
        except InvalidValue as error:
            self.screen.news(error.message, "red")
        except (Disconnected, CallError) as error:
            self.screen.news(f"that did not work: {error.message}", "red")
        return None

    async def say(self, words: str) -> bool:
        """Send until the server has it: its id makes a repetition harmless. Prints a refusal, and returns False."""
        number = secrets.token_hex(16)
        while True:
            try:
                answer = await self.chat.call("say", {"id": number, "text": words})
            except (Disconnected, CallError):
                await asyncio.sleep(_PAUSE)
                continue
            if isinstance(answer, dict) and "wait" in answer:
                wait = answer["wait"]
                await asyncio.sleep(min(max(wait, 0.0), _LONGEST_WAIT) if isinstance(wait, int | float) else _PAUSE)
            elif isinstance(answer, dict) and answer.get("error") == "not_in_a_room":
                await asyncio.sleep(_PAUSE)
            elif isinstance(answer, dict) and "error" in answer:
                self.screen.news(f"not sent: {answer.get('message', answer['error'])}", "red")
                return False
            else:
                return True

    def _changed(self, state: State, reason: str) -> None:
        if not self._begun:
            return  # if the first connection fails, the command ends with the reason
        if state is State.WAITING:
            self.screen.news(f"the connection is lost ({reason}): trying again", "yellow")
            self._lost = True
        elif state is State.CONNECTED and self._lost:
            self._lost = False
            self.screen.news("connected again", "green")
            self._healing = asyncio.ensure_future(self.again())
        elif state in (State.REFUSED, State.CLOSED) and reason != "client namespace disconnect":
            self.screen.news(f"the server ended it: {reason}", "red")


class _Room(_Session):
    """A room: its log first, then new messages, each once."""

    namespace = "/chat"

    def __init__(self, url: str, screen: _Screen, room: str, name: str) -> None:
        super().__init__(url, screen)
        self._guest = {"room": room, "name": name, "key": self.key}
        self._me = ""
        self._before: str | None = None
        self._people: dict[str, str] = {}
        self._shown: dict[str, None] = {}

    def listen(self) -> None:
        self.hear("said", _Said, self._show)
        self.hear("came", _News, self._came)
        self.hear("left", _News, self._left)
        self.hear("typing", _News, self._typing)

    async def begin(self) -> None:
        answer = await self._enter()
        self.screen.news(f"{self._guest['room']}: {answer.count} here. {_IN_A_ROOM}")

    async def again(self) -> None:
        try:
            await self._enter()
        except (Disconnected, CallError, InvalidValue) as error:
            self.screen.news(f"not in the room: {error.message}", "red")

    async def _enter(self) -> _Entered:
        answer = _checked(await self.ask("enter", self._guest), _Entered)
        self._me = answer.me
        self._people = {one.by: one.name for one in answer.people}
        pages = [answer.messages]
        before = answer.before
        # After a pause: read back to a message that was shown, unless that is too far, so that nothing is missing.
        left = _REMEMBERED - len(pages[0])
        while before is not None and left > 0 and self._shown and not any(one.id in self._shown for one in pages[0]):
            older = await self._page(before)
            if older is None:
                break
            pages.insert(0, older.messages)
            before = older.before
            left -= max(1, len(older.messages))
        if self._before is None or not self._shown:
            self._before = before
        for page in pages:
            for message in page:
                self._show(message)
        return answer

    async def _page(self, before: str) -> _Page | None:
        answer = await self.try_to_ask("older", before)
        return None if answer is None else _checked(answer, _Page)

    async def line(self, line: str) -> None:
        if line == "/who":
            self.screen.news(", ".join(sorted(self._people.values())) or "nobody")
        elif line == "/older":
            await self._older()
        else:
            await self.say(line)

    async def _older(self) -> None:
        if self._before is None:
            self.screen.news("there are no earlier messages")
            return
        page = await self._page(self._before)
        if page is not None:
            self._before = page.before
            self.screen.news("— earlier —")
            for message in page.messages:
                self._show(message)

    def _show(self, message: _Said) -> None:
        if message.id not in self._shown:
            self._shown[message.id] = None
            if len(self._shown) > _REMEMBERED:
                del self._shown[next(iter(self._shown))]
            self.screen.said(message.name, message.text, message.time, own=message.by == self._me)

    def _came(self, news: _News) -> None:
        if len(self._people) < _REMEMBERED:
            self._people[news.by] = news.name
        self.screen.news(f"{news.name} is here: {news.count} in all")

    def _left(self, news: _News) -> None:
        self.screen.news(f"{self._people.pop(news.by, 'somebody')} has left: {news.count} in all")

    def _typing(self, news: _News) -> None:
        if news.on:
            self.screen.news(f"{news.name} is typing")


class _Stranger(_Session):
    """One other person; nothing is kept."""

    namespace = "/stranger"

    def __init__(self, url: str, screen: _Screen) -> None:
        super().__init__(url, screen)
        self._talking = False
        self._online = 0

    def listen(self) -> None:
        self.hear("online", int, self._count)
        self.chat.on("paired", lambda *_: self._paired())
        self.chat.on("left", lambda *_: self._left())
        self.hear("said", _Said, lambda said: self.screen.said("stranger", said.text, said.time))
        self.hear("typing", bool, lambda on: self.screen.news("the stranger is typing") if on else None)

    async def begin(self) -> None:
        self.screen.news(_WITH_A_STRANGER)
        await self._look("start")

    async def again(self) -> None:
        if self._talking:
            self._talking = False
            self.screen.news("the connection was lost, and so was the talk: /next for somebody else", "yellow")

    async def line(self, line: str) -> None:
        command = line[1:]
        if line in ("/next", "/start"):
            await self._look(command)
        elif line in ("/stop", "/block", "/report"):
            if await self.try_to_ask(command) is not None:
                self._talking = False
                self.screen.news("the talk is over: /next for somebody else")
        elif not self._talking:
            self.screen.news("nobody is there yet")
        elif await self.say(line):
            self.screen.said("you", line, datetime.now().timestamp() * 1000, own=True)  # noqa: DTZ005 - a moment

    async def _look(self, command: str) -> None:
        self._talking = False
        self.screen.news(f"looking for somebody; {self._online} online")
        await self.try_to_ask(command)

    def _count(self, count: int) -> None:
        self._online = count

    def _paired(self) -> None:
        self._talking = True
        self.screen.news("there is somebody: say hello", "green")

    def _left(self) -> None:
        self._talking = False
        self.screen.news("the stranger has left: /next for somebody else")


def _checked(answer: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"the server's answer is not a chat's: {error}") from None
