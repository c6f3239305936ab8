"""One connection to /v1/ws that comes back: its subscriptions go on where they were, its publishes are sent again."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from partyline import log
from partyline.client.feed import Feed
from partyline.client.frames import Frame, command, error_of, message_of, position_of, read
from partyline.client.socket import Address, Socket
from partyline.errors import Disconnected, PartylineError, RateLimited, Unauthenticated

_log = log.get("client")

Token = str | Callable[[], str | Awaitable[str]]

SUBPROTOCOL: Final = "partyline.v1"
_AGAIN: Final = frozenset({1001, 1006, 1011, 1012, 1013, 4008})  # docs/reference/limits.md
_SUBSCRIBING: Final = 32
_RETRY_SUBSCRIBE: Final = 1.0  # seconds after the server could not subscribe us now


class State(Enum):
    """Of a line: `OPEN` has a connection, `WAITING` waits to try again, `CLOSED` is over for good."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Options:
    """How a line connects; seconds and bytes."""

    address: Address
    token: Token | None = None
    tls: ssl.SSLContext | None = None
    open_timeout: float = 10.0
    least_delay: float = 0.5
    most_delay: float = 30.0
    patience: float = 20.0  # beyond the server's heartbeat
    max_message: int = 16_000_000
    on_state: Callable[[State, str], None] | None = None
    random: Callable[[], float] = random.random


@dataclass(slots=True)
class _Asked:
    """A command that waits for its answer. `again` says whether it is sent once more after a reconnect."""

    text: bytes
    answer: asyncio.Future[Frame]
    again: bool


@dataclass(slots=True)
class Link:
    """Connects, reconnects, sends commands and gives what comes to its feeds. Closed by `close`, or for good by an
    error that no retry mends."""

    options: Options
    feeds: list[Feed] = field(default_factory=list)
    state: State = State.CONNECTING
    error: PartylineError | None = None
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _subscribing: dict[int, Feed] = field(default_factory=dict)
    _to_subscribe: dict[Feed, None] = field(default_factory=dict)
    _number: int = 0
    _socket: Socket | None = None
    _lost: asyncio.Future[tuple[int, str]] | None = None
    _task: asyncio.Task[None] | None = None
    _opened: asyncio.Future[None] | None = None
    _exact: dict[str, Feed] = field(default_factory=dict)

    async def open(self, patience: float) -> None:
        """Connect; a server that cannot be reached is tried again for `patience` seconds. Raises what it met last."""
        loop = asyncio.get_running_loop()
        self._opened = loop.create_future()
        self._task = loop.create_task(self._run(loop.time() + patience))
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            await self.close()
            raise

    def start(self) -> None:
        """Connect in the background, for ever."""
        self._task = asyncio.get_running_loop().create_task(self._run(float("inf")))

    async def close(self) -> None:
        """Close the connection; commands without an answer fail with Disconnected, subscriptions end."""
        self._over(None)
        if self._socket is not None:
            self._socket.close(1000, "")
            self._socket = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Commands

    async def ask(self, kind: str, *, again: bool, **fields: Any) -> Frame:
        """The server's answer to a command. Without a connection it waits for one.

        Raises the server's error, or Disconnected: the link is closed, or (`again` False) was cut off meanwhile.
        Cancelled, the command may have been carried out.
        """
        while self._socket is not None and self._socket.blocked:
            await self._socket.writable()
        if self.state is State.CLOSED:
            raise self._ended()
        self._number += 1
        number = self._number
        text = command(kind, number, **fields)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[number] = _Asked(text, answer, again)
        if self._socket is not None:
            self._socket.write(text)
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def subscribe(self, feed: Feed) -> None:
        """Fill `feed` from now on; a link that is over ends it with its error."""
        if self.state is State.CLOSED:
            feed.fail(self._ended())
            return
        self.feeds.append(feed)
        self._exact[feed.topic] = feed
        self._subscribe(feed)

    def unsubscribe(self, feed: Feed) -> None:
        """Give `feed` nothing more."""
        feed.closed = True
        if feed in self.feeds:
            self.feeds.remove(feed)
            del self._exact[feed.topic]
            if not feed.behind:
                self._say("unsubscribe", topic=feed.topic)

    def caught_up(self, feed: Feed) -> None:
        """The reader of a feed that fell behind has room again."""
        feed.behind = False
        self._subscribe(feed)

    def _subscribe(self, feed: Feed) -> None:
        feed.ready = False
        self._to_subscribe[feed] = None
        self._send_subscribes()

    def _send_subscribes(self) -> None:
        """A few at a time: a server lets so many commands wait, and no more."""
        while self._to_subscribe and self._socket is not None and len(self._subscribing) < _SUBSCRIBING:
            feed = next(iter(self._to_subscribe))
            del self._to_subscribe[feed]
            if not feed.closed and not feed.behind:
                self._subscribing[self._say("subscribe", topic=feed.topic, after=str(feed.start))] = feed

    def _say(self, kind: str, **fields: Any) -> int:
        self._number += 1
        if self._socket is not None:
            self._socket.write(command(kind, self._number, **fields))
        return self._number

    # Connecting

    async def _run(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        tries, refreshed = 0, False
        while True:
            wait = 0.0
            try:
                self._tell(State.CONNECTING, "")
                self._lost = loop.create_future()
                await self._connect()
                tries = 0
                code, reason = await self._lost
                self._socket = None
                if code not in _AGAIN and not (code == 4401 and callable(self.options.token) and not refreshed):
                    self._over(_final(code, reason))
                    return
                refreshed = code == 4401
                self._cut_off()
            except PartylineError as error:
                self._socket = None
                if not error.temporary:
                    self._over(error)
                    return
                code, reason = 0, error.message
                if isinstance(error, RateLimited):
                    wait = error.retry_after
                if self._opened is not None and not self._opened.done() and loop.time() >= until:
                    self._over(error)
                    return
            # Full jitter: a crowd that was cut off at one moment comes back spread over the whole delay.
            delay = self.options.random() * min(self.options.most_delay, self.options.least_delay * 2.0**tries)
            tries = min(tries + 1, 30)
            if self._opened is not None and not self._opened.done():
                delay = min(delay, max(0.0, until - loop.time()))
            self._tell(State.WAITING, reason)
            await asyncio.sleep(max(wait, delay))

    async def _connect(self) -> None:
        options = self.options
        token = options.token
        if callable(token):
            made = token()
            token = made if isinstance(made, str) else await made
        headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self._socket = await Socket.open(
            options.address,
            headers,
            SUBPROTOCOL,
            self._heard,
            self._gone,
            tls=options.tls,
            timeout=options.open_timeout,
            max_message=options.max_message,
        )
        self._subscribing.clear()
        self._to_subscribe = dict.fromkeys(self.feeds)
        self._send_subscribes()
        for asked in tuple(self._asked.values()):
            self._socket.write(asked.text)
        self._tell(State.OPEN, "")
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _gone(self, code: int, reason: str) -> None:
        for feed in self.feeds:
            feed.ready = False
        self._socket = None
        if self._lost is not None and not self._lost.done():
            self._lost.set_result((code, reason))

    def _cut_off(self) -> None:
        for number, asked in tuple(self._asked.items()):
            if not asked.again and not asked.answer.done():
                del self._asked[number]
                asked.answer.set_exception(Disconnected("the connection broke: it is not known whether this was done"))

    def _over(self, error: PartylineError | None) -> None:
        if self.state is State.CLOSED:
            return
        self.error = error
        self._tell(State.CLOSED, "" if error is None else error.message)
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(self._ended())
        for feed in self.feeds:
            if error is None:
                feed.closed = True
                feed.wake()
            else:
                feed.fail(error)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(self._ended())

    def _ended(self) -> PartylineError:
        if self.error is not None:
            return self.error
        closed = Disconnected("this line is closed")
        closed.temporary = False
        return closed

    def _tell(self, state: State, reason: str) -> None:
        self.state = state
        if self.options.on_state is not None:
            try:
                self.options.on_state(state, reason)
            except Exception:
                _log.exception("on_state failed")

    # What comes

    def _heard(self, text: str) -> None:
        try:
            self._take(read(text))
        except PartylineError as error:
            # A server that does not speak v1 does not learn it by another connection.
            error.temporary = False
            socket, self._socket = self._socket, None
            if socket is not None:
                socket.close(1002, "not a frame of v1")
            self._over(error)

    def _take(self, frame: Frame) -> None:
        match frame.type:
            case "message":
                self._message(frame)
            case "reply" | "error":
                self._answer(frame)
            case "position":
                position = position_of(frame.position)
                if frame.topic:
                    if (feed := self._exact.get(frame.topic)) is not None and not frame.recovered:
                        feed.gap(None if frame.oldest is None else position_of(frame.oldest), position)
                else:
                    for feed in self.feeds:
                        feed.advance(position)
            case "welcome":
                if self._socket is not None:
                    self._socket.expect(frame.heartbeat, self.options.patience)
            case _:
                pass  # a later server may say more

    def _message(self, frame: Frame) -> None:
        feed = self._exact.get(frame.topic)
        if feed is None:
            feed = next((one for one in self.feeds if one.covers(frame.topic)), None)
        if feed is None or not feed.ready or feed.behind:
            return  # unsubscribed meanwhile, or it will come again
        if not feed.put(message_of(frame)):
            feed.behind = True
            self._say("unsubscribe", topic=feed.topic)

    def _answer(self, frame: Frame) -> None:
        number = frame.id if isinstance(frame.id, int) else 0
        feed = self._subscribing.pop(number, None)
        asked = self._asked.get(number)
        if feed is not None:
            self._subscribed(feed, frame)
            self._send_subscribes()
        elif asked is not None and not asked.answer.done():
            if frame.type == "error":
                asked.answer.set_exception(error_of(frame.code, frame.message))
            else:
                asked.answer.set_result(frame)

    def _subscribed(self, feed: Feed, frame: Frame) -> None:
        if frame.type == "error":
            error = error_of(frame.code, frame.message)
            if error.temporary or frame.code == "too_many_pending":
                asyncio.get_running_loop().call_later(_RETRY_SUBSCRIBE, self._subscribe, feed)
            else:
                self.feeds.remove(feed)
                del self._exact[feed.topic]
                feed.fail(error)
            return
        if feed.closed:
            return
        position = position_of(frame.position)
        feed.ready = True
        if frame.recovered:
            feed.last = position
            feed.wake()
        else:
            feed.gap(None if frame.oldest is None else position_of(frame.oldest), position)


def _final(code: int, reason: str) -> PartylineError:
    """Why a line does not come back after this close code (docs/reference/limits.md)."""
    if code == 4401:
        return Unauthenticated(f"the server closed the line: {reason or 'not authenticated'}")
    error = Disconnected(f"the server closed the line with {code} {reason}".rstrip())
    error.temporary = False
    return error
