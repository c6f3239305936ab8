"""One connection to /v1/ws that comes back: subscriptions go on where they were, publishes are sent again."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from partyline import log
from partyline.client.feed import Feed
from partyline.client.frames import Frame, command, error_of, message_of, position_of, read
from partyline.client.socket import Address, Socket
from partyline.errors import Disconnected, InvalidValue, PartylineError, PayloadTooLarge, Unauthenticated

_log = log.get("client")

Token = str | Callable[[], str | Awaitable[str]]

SUBPROTOCOL: Final = "partyline.v1"
_AGAIN: Final = frozenset({1001, 1006, 1011, 1012, 1013, 4008})  # docs/reference/limits.md
_SUBSCRIBING: Final = 32
_RETRY_SUBSCRIBE: Final = 1.0  # seconds after the server could not subscribe us
_LEAST_TRY: Final = 0.1  # seconds for a try that begins when the time for opening is almost over
_VISIBLE: Final = re.compile(r"[!-~]+")

_LONGEST_HEARTBEAT: Final = 3600.0  # seconds: the longest heartbeat that is believed


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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True)
class _Asked:
    """A command that waits for its answer. `again` says whether it is sent once more after a reconnect."""

    text: bytes
    answer: asyncio.Future[Frame]
    again: bool


@dataclass(slots=True)
class Link:
    """Connects, reconnects, sends commands and fills its feeds. Ended by `close`, or by an error that no retry can
    fix."""

    options: Options
    feeds: list[Feed] = field(default_factory=list)
    state: State = State.CONNECTING
    error: PartylineError | None = None
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _subscribing: dict[int, Feed] = field(default_factory=dict)
    _to_subscribe: dict[Feed, None] = field(default_factory=dict)
    _number: int = 0
    _socket: Socket | None = None
    _closing: Socket | None = None
    _lost: asyncio.Future[tuple[int, str]] | None = None
    _task: asyncio.Task[None] | None = None
    _opened: asyncio.Future[None] | None = None
    _exact: dict[str, Feed] = field(default_factory=dict)
    _token: str | None = None  # of the newest connection
    _expired: str | None = None  # the token because of which the server closed the last connection

    async def open(self, patience: float) -> None:
        """Connect; a server that cannot be reached is tried again for `patience` seconds. Raises the last error."""
        loop = asyncio.get_running_loop()
        opened = self._opened = loop.create_future()
        self._task = loop.create_task(self._run(patience))
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            opened.cancel()
            self.end()
            raise

    def start(self) -> None:
        """Stay connected, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(float("inf")))

    def end(self) -> None:
        """Begin to close; commands without an answer fail with Disconnected, subscriptions end."""
        self._over(None)
        if self._socket is not None:
            self._closing, self._socket = self._socket, None
            self._closing.close(1000, "")
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Close the connection, and return when it is gone. Cancelling it changes nothing."""
        self.end()
        if self._task is not None:
            await asyncio.wait((self._task,))
        if self._closing is not None:
            await self._closing.ended()

    # Commands

    async def ask(self, kind: str, *, again: bool, **fields: Any) -> Frame:
        """The server's answer to a command. Without a connection it waits for one.

        Raises the server's error, or Disconnected if the link is closed, or (with `again` False) was cut off meanwhile.
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
        """Fill `feed` from now on; a link that is over ends the feed with its error."""
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

    def _subscribe_again(self, feed: Feed, socket: Socket | None) -> None:
        if socket is self._socket and not feed.closed and feed.error is None:  # a new connection subscribed by itself
            self._subscribe(feed)

    def _send_subscribes(self) -> None:
        """Send a few at a time: a server lets only so many commands wait."""
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

    async def _run(self, patience: float) -> None:
        try:
            await self._stay(patience)
        except Exception as error:
            _log.exception("the line failed")
            self._over(PartylineError(f"the line failed: {type(error).__name__}: {error}"))

    async def _stay(self, patience: float) -> None:
        """Connect again and again. Returns when the line is over."""
        loop, options = asyncio.get_running_loop(), self.options
        until = loop.time() + patience
        tries = 0
        while True:
            bound = min(options.most_delay, options.least_delay * 2.0**tries)
            wait = 0.0
            self._tell(State.CONNECTING, "")
            try:
                self._lost = loop.create_future()
                opening = self._opened is not None and not self._opened.done()
                left = max(until - loop.time(), _LEAST_TRY) if opening and patience else options.open_timeout
                await self._connect(min(left, options.open_timeout))
                since = loop.time()
                code, reason = await self._lost
                self._socket = None
                if not self._comes_back(code):
                    self._over(_final(code, reason))
                    return
                if loop.time() - since > bound:
                    tries = 0  # not reset at once: a server that accepts us and then closes is no better than none
                self._cut_off()
            except PartylineError as error:
                self._socket = None
                reason, wait = error.message, error.retry_after
                opening = self._opened is not None and not self._opened.done()
                if not error.temporary or (opening and loop.time() + wait >= until):
                    self._over(error)
                    return
            # Full jitter: a crowd that was cut off at one moment comes back spread over the whole delay.
            delay = options.random() * min(options.most_delay, options.least_delay * 2.0**tries)
            tries = min(tries + 1, 30)
            if self._opened is not None and not self._opened.done():
                delay = min(delay, max(0.0, until - loop.time()))
            self._tell(State.WAITING, reason)
            await options.sleep(max(wait, delay))

    def _comes_back(self, code: int) -> bool:
        """Whether to connect again after this close code (docs/reference/limits.md)."""
        if code == 4401 and callable(self.options.token):
            self._expired = self._token
            return True
        if code == 1009:
            # One message was too large for the server: it must have been the largest, which is not sent again.
            largest = max(self._asked, key=lambda number: len(self._asked[number].text), default=None)
            if largest is None:
                return False
            asked = self._asked.pop(largest)
            if not asked.answer.done():
                asked.answer.set_exception(
                    PayloadTooLarge(f"a command of {len(asked.text)} bytes is more than the server takes (max_message)")
                )
            return True
        return code in _AGAIN

    async def _new_token(self) -> str | None:
        token = self.options.token
        if token is None:
            return None
        if callable(token):
            try:
                made = token()
                token = made if isinstance(made, str) else await made
            except PartylineError:
                raise
            except Exception as error:  # a function that fetches tokens over a network fails now and then
                raise Disconnected(f"could not get a token: {type(error).__name__}: {error}") from error
            if token and token == self._expired:
                raise Unauthenticated("the server no longer accepts this token, and there is no other")
        if not (isinstance(token, str) and _VISIBLE.fullmatch(token)):
            raise InvalidValue(
                "token: it has to be visible ASCII characters, without spaces and line ends", field="token"
            )
        return token

    async def _connect(self, timeout: float) -> None:  # noqa: ASYNC109 - of the attempt, and the error says so
        options = self.options
        try:
            async with asyncio.timeout(timeout):
                token = self._token = await self._new_token()
        except TimeoutError:
            raise Disconnected(f"could not get a token within {timeout:g} s") from None
        headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self._socket = await Socket.open(
            options.address,
            headers,
            SUBPROTOCOL,
            self._heard,
            self._gone,
            tls=options.tls,
            timeout=timeout,
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
            # A server that does not speak v1 will not do so on another connection.
            error.temporary = False
            socket, self._socket = self._socket, None
            if socket is not None:
                socket.close(1002, "not a frame of v1")
                socket.abort()  # nobody waits for its end
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
                    self._socket.expect(min(max(frame.heartbeat, 0.0), _LONGEST_HEARTBEAT), self.options.patience)
            case _:
                pass  # a later server may say more

    def _message(self, frame: Frame) -> None:
        feed = self._exact.get(frame.topic)
        if feed is None:
            feed = next((one for one in self.feeds if one.covers(frame.topic)), None)
        if feed is None or not feed.ready or feed.behind:
            return  # unsubscribed meanwhile, or it will come again
        if not feed.put(message_of(frame.topic, frame)):
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
        if feed.closed:
            return
        if frame.type == "error":
            error = error_of(frame.code, frame.message)
            if error.temporary or frame.code == "too_many_pending":
                loop = asyncio.get_running_loop()
                loop.call_later(_RETRY_SUBSCRIBE, self._subscribe_again, feed, self._socket)
            else:
                self.feeds.remove(feed)
                del self._exact[feed.topic]
                feed.fail(error)
            return
        position = position_of(frame.position)
        feed.ready = True
        if frame.recovered:
            feed.begin(position)
        else:
            feed.gap(None if frame.oldest is None else position_of(frame.oldest), position)


def _final(code: int, reason: str) -> PartylineError:
    """Why a line does not come back after this close code (docs/reference/limits.md)."""
    if code == 4401:
        return Unauthenticated(f"the server closed the line: {reason or 'not authenticated'}")
    error = Disconnected(f"the server closed the line with {code} {reason}".rstrip() if code else reason)
    error.temporary = False
    return error
