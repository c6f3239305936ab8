"""A worker among the others: it passes requests and WebSockets on to the worker that has their session.

An id that a worker gives out ends with its number. A request is answered by the owner and sent on as an answer; a
WebSocket's connection itself becomes the owner's, as a descriptor. An owner that is gone has no sessions any more: the
request is answered here, where nobody knows its session either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from partyline import log
from partyline.errors import MalformedRequest, PayloadTooLarge
from partyline.metrics import Counters
from partyline.nodes.forwarding import Changed, again, left, request_of, send_answer, serve, whole
from partyline.server.answers import answer_error
from partyline.server.exchange import Direct, Paths
from partyline.server.site import Live
from partyline.wire import forwarding as wire
from partyline.workers.handing import Asked, Asking, Handing
from partyline.workers.line import Line
from partyline.workers.tunnel import Entrance, Tunnel

_log = log.get("workers")

_OWNED: Final = (b"/ws/", b"/register/")
_SESSION: Final = re.compile(rb"(?:^|&)sid=[^&]*\.([0-9]{1,4})(?:&|$)")
_NAMED: Final = re.compile(rb"\.([0-9]{1,4})$")
_CHANGES: Final = ("/add_topic", "/remove_topic")  # their bodies name the registration
_PATIENCE: Final = 2.0  # seconds for what another worker has counted
_MOST_PASSING: Final = 1_024  # connections on their way to other workers
_PASSING: Final = 5.0  # seconds that one may need
_LARGEST: Final = 128 * 1024  # bytes that go with a descriptor


class Elsewhere:
    """This is worker `number` of `count`; their sockets are in `folder`.

    `direct` says what is answered without ASGI. `max_body` is in bytes.
    """

    def __init__(self, number: int, count: int, folder: str, counters: Counters, direct: Paths, max_body: int) -> None:
        self.connections: Callable[[], int] = lambda: 0
        self.keeper: Callable[[], Awaitable[list[wire.Counts]]] = _no_keeper  # what it has counted
        self._number = number
        self._count = count
        self._folder = Path(folder)
        self._counters = counters
        self._direct = direct
        self._max_body = max_body
        self._app: ASGIApp = _nothing
        self._connection: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self._lines: dict[int, Asking] = {}
        self._servers: list[asyncio.Server] = []
        self._door: socket.socket | None = None
        self._passing = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # server.site.Elsewhere

    def owner(self, path: bytes, query: bytes) -> int | None:
        found = _NAMED.search(path) if path.startswith(_OWNED) else _SESSION.search(query) if query else None
        return None if found is None else self._other(found[1])

    def instead(self, path: bytes, query: bytes, direct: Direct) -> Direct:
        """What answers a request: `direct`, or another worker."""
        owner = self.owner(path, query)
        return direct if owner is None else Handing(self, owner, path, direct)

    def pass_on(self, owner: int, descriptor: int, data: bytes) -> bool:
        if self._passing >= _MOST_PASSING or len(data) > _LARGEST:
            self._counters.hit("max_passing_connections")
            return False
        door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        door.setblocking(False)
        try:
            door.connect(self._path("door", owner))
        except OSError:
            door.close()
            return False
        self._passing += 1
        _Passing(door, os.dup(descriptor), data, self._passed).write()
        return True

    def tunnel(self, owner: int, transport: asyncio.Transport, data: bytes, gone: Callable[[Live], None]) -> Live:
        tunnel = Tunnel(transport, gone)
        tunnel.dig(self._path("tunnel", owner), data)
        return tunnel

    def _passed(self) -> None:
        self._passing -= 1

    def _other(self, mark: bytes) -> int | None:
        owner = int(mark) % self._count
        return None if owner == self._number else owner

    def _path(self, kind: str, number: int) -> str:
        return str(self._folder / f"{kind}-{number}.sock")

    # Starting and stopping

    async def start(self, connection: Callable[[], asyncio.Protocol]) -> None:
        """Listen for the others; `connection` makes the reader of a connection that is passed on."""
        self._connection = connection
        loop = asyncio.get_running_loop()
        for kind in ("worker", "door", "tunnel"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(kind, self._number))
        self._servers.append(await loop.create_unix_server(self._asked, self._path("worker", self._number)))
        tunnels = await loop.create_unix_server(lambda: Entrance(connection), self._path("tunnel", self._number))
        self._servers.append(tunnels)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._door.setblocking(False)
        self._door.bind(self._path("door", self._number))
        loop.add_reader(self._door, self._enter)

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        if self._door is not None:
            asyncio.get_running_loop().remove_reader(self._door)
            self._door.close()
        for line in tuple(self._lines.values()):
            line.line.close()

    def _enter(self) -> None:
        """Connections that others pass on."""
        assert self._door is not None
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._door, 2 * _LARGEST, 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                self.spawn(self._accept(socket.socket(fileno=descriptor), data))

    async def _accept(self, client: socket.socket, data: bytes) -> None:
        client.setblocking(False)
        try:
            _, protocol = await asyncio.get_running_loop().connect_accepted_socket(self._connection, client)
        except OSError:  # it has gone on the way
            client.close()
            return
        cast("Any", protocol).data_received(data)

    # Requests

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """An application that leaves requests of this worker to `app`, and has all others answered by their owners."""
        self._app = app

        async def answering(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            owner = self.owner(scope.get("raw_path") or b"", scope["query_string"])
            changes = owner is None and scope["path"] in _CHANGES
            if owner is None and not changes:
                await app(scope, receive, send)
                return
            try:
                body = await whole(receive, self._max_body)
            except PayloadTooLarge as error:
                await answer_error(error, send)
                return
            if body is None:
                return
            if changes:
                owner = self._changed(body)
            if owner is None or not await self._forward(owner, scope, body, receive, send):
                await app(scope, again(body, receive), send)

        return answering

    def _changed(self, body: bytes) -> int | None:
        try:
            found = _NAMED.search(msgspec.json.decode(body, type=Changed).client_id.encode())
        except (msgspec.MsgspecError, UnicodeError):
            return None  # whoever reads it says what is wrong
        return None if found is None else self._other(found[1])

    async def _forward(self, owner: int, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Whether the owner has answered, or its client waits no more."""
        line = await self.line(owner)
        if line is None:
            return False
        number, answer = line.ask(lambda number: request_of(scope, body, number))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                line.gone(number)
                return True
        finally:
            leaving.cancel()
        answered = answer.result()
        if answered is None:
            return False
        await send_answer(answered, send)
        return True

    # workers.handing.Others

    def line_now(self, owner: int) -> Asking | None:
        return self._lines.get(owner)

    async def line(self, owner: int) -> Asking | None:
        if owner not in self._lines:
            made = Asking(lambda: self._lost(owner, made))
            try:
                await asyncio.get_running_loop().create_unix_connection(lambda: made.line, self._path("worker", owner))
            except OSError:
                return None
            self._lines.setdefault(owner, made)
        return self._lines[owner]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, owner: int, line: Asking) -> None:
        if self._lines.get(owner) is line:
            del self._lines[owner]

    def _asked(self) -> Line:
        return Asked(self._direct, self._counters, self.counted, self._serve).line

    async def _serve(self, request: wire.Request, gone: asyncio.Event) -> wire.Answer:
        return await serve(self._app, request, gone, self)

    # Counting

    def counted(self, number: int) -> wire.Counts:
        """What this worker has counted."""
        return wire.Counts(number, self._counters.totals(), self._counters.limits, self.connections())

    async def totals(self) -> tuple[Counters, int]:
        """What this worker and those that answer have counted, and their open connections."""
        found = [self.counted(0), *await self.keeper()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for other in range(self._count):
                    line = None if other == self._number else await self.line(other)
                    if line is not None and (counts := await line.ask(wire.Count)[1]) is not None:
                        found.append(counts)
        total = Counters()
        for counts in found:
            for name, value in counts.totals.items():
                setattr(total, name, getattr(total, name) + value)
            for name, value in counts.limits.items():
                total.limits[name] = total.limits.get(name, 0) + value
        return total, sum(counts.connections for counts in found)


class _Passing:
    """A connection on its way to another worker."""

    __slots__ = ("_data", "_descriptor", "_done", "_door", "_giving_up", "_waiting")

    def __init__(self, door: socket.socket, descriptor: int, data: bytes, done: Callable[[], None]) -> None:
        self._door = door
        self._descriptor = descriptor
        self._data = data
        self._done = done
        self._waiting = False
        self._giving_up: asyncio.TimerHandle | None = None

    def write(self) -> None:
        """Hand it over, now or when there is room for it. If that is impossible, it is closed."""
        try:
            socket.send_fds(self._door, [self._data], [self._descriptor])
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                loop = asyncio.get_running_loop()
                loop.add_writer(self._door, self.write)
                self._giving_up = loop.call_later(_PASSING, self._end)
            return
        except OSError:
            pass  # its owner has gone, and the client will connect again
        self._end()

    def _end(self) -> None:
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self._door)
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._door.close()
        os.close(self._descriptor)
        self._done()


async def _no_keeper() -> list[wire.Counts]:
    return []


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise MalformedRequest("nothing is served yet")
