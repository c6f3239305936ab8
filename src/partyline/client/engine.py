"""A client's Engine.IO 4 connection: polling, WebSocket, and the upgrade from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from partyline.client.http import Http
from partyline.client.socket import Address, Socket
from partyline.errors import Disconnected, InvalidPacket, PartylineError
from partyline.wire.engineio import packets, payloads
from partyline.wire.engineio.packets import Packet
from partyline.wire.websocket.frames import utf8

POLLING: Final = "polling"
WEBSOCKET: Final = "websocket"
_PROTOCOL: Final = 4
_FAREWELL: Final = 2.0  # seconds


class _Open(msgspec.Struct, rename="camel"):
    """The open packet. Times are in milliseconds."""

    sid: str
    upgrades: list[str]
    ping_interval: float
    ping_timeout: float
    max_payload: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """Where and how to connect. `transports` in the order in which they are tried."""

    address: Address  # its path ends with a slash
    headers: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    transports: Sequence[str] = (POLLING, WEBSOCKET)
    timeout: float = 10.0
    max_message: int = 16_000_000


class Engine:
    """One connection. `heard` gets each message, `lost` the reason once, unless `close` was called before."""

    def __init__(self, route: Route, heard: Callable[[str | bytes], None], lost: Callable[[str], None]) -> None:
        self._route = route
        self._heard = heard
        self._lost: Callable[[str], None] | None = lost
        self._socket: Socket | None = None
        self._queue: deque[Packet] = deque()  # for the next POST
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()  # something waits to be posted
        self._posted = asyncio.Event()  # no POST is out
        self._posted.set()
        self._paused = False  # a WebSocket takes over: no new GET or POST
        self._opened = _Open("", [], 25_000, 20_000)
        self._last = 0.0  # when the server was last heard from
        self._watch: asyncio.TimerHandle | None = None

    @property
    def transport(self) -> str:
        """`polling` or `websocket`."""
        return POLLING if self._socket is None else WEBSOCKET

    async def open(self) -> None:
        """Connect, within `timeout` seconds. Raises Disconnected, or the server's refusal."""
        try:
            async with asyncio.timeout(self._route.timeout):
                if self._route.transports[0] == WEBSOCKET:
                    await self._open_websocket()
                else:
                    await self._open_polling()
        except TimeoutError:
            self.close()
            raise Disconnected(f"{self._route.address.authority} did not answer in time") from None
        except BaseException:
            self.close()
            raise
        self._look()

    def send(self, messages: Iterable[str | bytes]) -> None:
        """Send messages, in order. Never waits; once the connection is over, nothing happens."""
        if self._lost is None:
            return
        for message in messages:
            self._send(packets.message(message))

    async def drained(self) -> None:
        """Return when there is room for more, or the connection is over."""
        if self._socket is not None:
            await self._socket.writable()
        elif self._lost is not None:
            await self._posted.wait()

    def close(self) -> None:
        """End the connection; nothing is heard after this."""
        self._lost = None
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks:
            task.cancel()
        if self._socket is not None:
            self._socket.close()

    async def farewell(self) -> None:
        """Send what is queued, and a close packet if the transport has no end of its own; takes two seconds at most."""
        if self._socket is None and self._lost is not None and self._opened.sid:
            self._send(packets.CLOSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    while self._queue and self._lost is not None:
                        self._posted.clear()
                        await self._posted.wait()

    async def ended(self) -> None:
        """Return when its tasks and transports are gone."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._socket is not None:
            await self._socket.ended()

    # Both

    def _target(self, transport: str) -> str:
        sid = f"&sid={self._opened.sid}" if self._opened.sid else ""
        return f"{self._route.address.path}?EIO={_PROTOCOL}&transport={transport}{sid}"

    def _send(self, packet: Packet) -> None:
        socket = self._socket
        if socket is None:
            self._queue.append(packet)
            self._wanted.set()
        elif isinstance(packet, str):
            socket.write(utf8(packet))
        else:
            socket.write_binary(packet)

    def _welcome(self, packet: Packet) -> None:
        if not isinstance(packet, str) or packet[:1] != packets.OPEN:
            raise Disconnected(f"{self._route.address.authority} does not speak Engine.IO")
        try:
            self._opened = msgspec.json.decode(packet[1:], type=_Open)
        except msgspec.MsgspecError:
            raise Disconnected(f"{self._route.address.authority} does not speak Engine.IO") from None

    def _packet(self, packet: Packet) -> None:
        self._last = asyncio.get_running_loop().time()
        if self._lost is None:
            return
        message = packets.content(packet)
        if message is not None:
            self._heard(message)
        elif packet == packets.PING:
            self._send(packets.PONG)
        elif packet == packets.CLOSE:
            self._over("the server closed the connection")

    def _over(self, reason: str) -> None:
        lost = self._lost
        self.close()
        if lost is not None:
            lost(reason)

    def _look(self) -> None:
        """Check that the server is still there: it is never silent for longer than an interval."""
        if self._lost is None:
            return
        loop = asyncio.get_running_loop()
        due = self._last + (self._opened.ping_interval + self._opened.ping_timeout) / 1000
        if loop.time() >= due:
            self._over("ping timeout")
        else:
            self._watch = loop.call_at(due, self._look)

    def _start(self, coroutine: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # WebSocket

    async def _connect_websocket(self, heard: Callable[[Packet], None], lost: Callable[[int, str], None]) -> Socket:
        route = self._route
        return await Socket.open(
            replace(route.address, path=self._target(WEBSOCKET)),
            route.headers,
            None,
            heard,
            lost,
            tls=route.tls,
            timeout=route.timeout,
            max_message=route.max_message,
            heard_binary=heard,
        )

    async def _open_websocket(self) -> None:
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard(packet: Packet) -> None:
            if first.done():
                self._packet(packet)
                return
            try:
                self._welcome(packet)
            except PartylineError as error:
                first.set_exception(error)
            else:
                self._last = asyncio.get_running_loop().time()
                first.set_result(None)

        def lost(code: int, reason: str) -> None:
            if not first.done():
                first.set_exception(Disconnected(f"{self._route.address.authority} closed the connection: {reason}"))
            self._over(f"transport close ({code} {reason})" if reason else f"transport close ({code})")

        self._socket = await self._connect_websocket(heard, lost)
        await first

    async def _upgrade(self) -> None:
        """Let a WebSocket take over. If that fails, polling goes on."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        over = False

        def heard(packet: Packet) -> None:
            if over:
                self._packet(packet)
            elif packet == packets.PROBE_ANSWER and not answered.done():
                answered.set_result(None)

        def lost(code: int, reason: str) -> None:
            if over:
                self._over(f"transport close ({code} {reason})" if reason else f"transport close ({code})")
            elif not answered.done():
                answered.set_exception(Disconnected(reason))

        socket: Socket | None = None
        try:
            socket = await self._connect_websocket(heard, lost)
            socket.write(packets.PROBE.encode())
            async with asyncio.timeout(self._route.timeout):
                await answered
        except (TimeoutError, PartylineError):
            if socket is not None:
                socket.abort()
            return
        except BaseException:
            if socket is not None:
                socket.abort()
            raise
        # What was posted has to arrive before what the WebSocket carries; the GET that hangs is released by the server.
        self._paused = True
        self._wanted.set()
        try:
            others = [task for task in self._tasks if task is not asyncio.current_task()]
            if others:
                await asyncio.wait(others)
        except BaseException:
            socket.abort()
            raise
        if self._lost is None:
            socket.abort()
            return
        over = True
        self._socket = socket
        socket.write(packets.UPGRADE.encode())
        while self._queue:
            self._send(self._queue.popleft())

    # Polling

    async def _open_polling(self) -> None:
        http = self._http()
        found = await self._fetch(http)
        self._welcome(found[0])
        self._last = asyncio.get_running_loop().time()
        for packet in found[1:]:
            self._packet(packet)
        self._start(self._poll(http))
        self._start(self._post(self._http()))
        if WEBSOCKET in self._route.transports and WEBSOCKET in self._opened.upgrades:
            self._start(self._upgrade())

    def _http(self) -> Http:
        return Http(self._route.address, list(self._route.headers), self._route.tls)

    async def _fetch(self, http: Http) -> list[Packet]:
        answer = await http.request("GET", self._target(POLLING))
        if answer.status != 200:
            raise Disconnected(f"{self._route.address.authority} answered {answer.status}{_reason(answer.body)}")
        try:
            return payloads.read(answer.body, _PROTOCOL)
        except InvalidPacket as error:
            raise Disconnected(f"{self._route.address.authority} does not speak Engine.IO: {error.message}") from None

    async def _poll(self, http: Http) -> None:
        try:
            while self._lost is not None and not self._paused:
                for packet in await self._fetch(http):
                    self._packet(packet)
        except Disconnected as error:
            self._over(f"transport error ({error.message})")
        finally:
            http.close()

    async def _post(self, http: Http) -> None:
        try:
            while self._lost is not None and not self._paused:
                await self._wanted.wait()
                self._wanted.clear()
                while self._queue and not self._paused:
                    self._posted.clear()
                    await self._post_some(http)
                self._posted.set()
        except Disconnected as error:
            self._over(f"transport error ({error.message})")
        finally:
            self._posted.set()
            http.close()

    async def _post_some(self, http: Http) -> None:
        """Post as much of the queue as the server takes at once."""
        chosen: list[Packet] = []
        size = 0
        while self._queue:
            packet = self._queue[0]
            size += (len(packet) * 4 // 3 + 4 if isinstance(packet, bytes) else len(utf8(packet))) + 1
            if chosen and (size > self._opened.max_payload or len(chosen) == 16):
                break
            chosen.append(self._queue.popleft())
        body, content = payloads.write(chosen, _PROTOCOL, base64=True)
        answer = await http.request("POST", self._target(POLLING), body, content)
        if answer.status != 200:
            raise Disconnected(f"{self._route.address.authority} answered {answer.status}{_reason(answer.body)}")


def _reason(body: bytes) -> str:
    """The reason in an answer: both forms of errors have a `message`; another server's page has none."""
    try:
        found = msgspec.json.decode(body)
        error = found.get("error", found)
        return f": {str(error['message'])[:200]}"
    except (msgspec.MsgspecError, AttributeError, KeyError, TypeError):
        return ""
