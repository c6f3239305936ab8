"""Requests for what another node has: they are answered there, and the answer is sent on.

The id of a Socket.IO session ends with the name of its node, and the row of a registration names it. Whatever is for a
node that is gone is answered here, where nobody knows the session either, and the registration is taken over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from partyline.errors import PayloadTooLarge, StoreUnavailable
from partyline.hub.company import Company
from partyline.nodes.registrations import SharedRegistrations
from partyline.relay.classic.registry import Registry, id_hash
from partyline.server.answers import answer_error
from partyline.server.exchange import Direct
from partyline.trust.perimeter import Peer
from partyline.wire import forwarding as wire
from partyline.wire.forwarding import decode, encode

_SUBJECT: Final = "request"
_GONE: Final = "request gone"
_REGISTER: Final = "/register/"
_CHANGES: Final = ("/add_topic", "/remove_topic")  # whose bodies say whose they are
_SESSION: Final = re.compile(rb"(?:^|&)sid=[^&]*\.n([0-9a-f]{16})(?:&|$)")
_PATIENCE: Final = 90.0  # seconds that an answer may take: one to a poll may wait for a heartbeat


class Changed(msgspec.Struct):
    """The part of a body that says whose it is."""

    client_id: str = ""


class Forwarding:
    """Of one node. `max_body` is in bytes."""

    def __init__(
        self, company: Company, registry: Registry, registrations: SharedRegistrations, app: ASGIApp, max_body: int
    ) -> None:
        self._company = company
        self._registry = registry
        self._registrations = registrations
        self._app = app
        self._max_body = max_body
        self._own = company.node.encode()
        self._number = 0
        self._serving: dict[tuple[str, int], asyncio.Event] = {}
        company.answer(_SUBJECT, self._asked)
        company.hear(_GONE, self._gone)
        company.went.append(self._lost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application in front of that of this node."""
        session = _SESSION.search(scope["query_string"]) if scope["type"] == "http" else None
        path: str = scope["path"]
        if session is None and (scope["type"] != "http" or not (path.startswith(_REGISTER) or path in _CHANGES)):
            await self._app(scope, receive, send)
            return
        try:
            body = await whole(receive, self._max_body)
        except PayloadTooLarge as error:
            await answer_error(error, send)
            return
        if body is None:
            return
        try:
            owner = await (self._of_session(session[1].decode()) if session else self._of_registration(path, body))
        except StoreUnavailable as error:
            await answer_error(error, send)
            return
        if owner is None or not await self._forward(owner, scope, body, receive, send):
            await self._app(scope, again(body, receive), send)

    def instead(self, path: bytes, query: bytes, direct: Direct) -> Direct | None:
        """What answers a request: `direct`, or, for a session of another node, this application."""
        found = _SESSION.search(query) if query else None
        return direct if found is None or found[1] == self._own else None

    async def _of_session(self, node: str) -> str | None:
        return node if node != self._company.node and await self._company.has(node) else None

    async def _of_registration(self, path: str, body: bytes) -> str | None:
        """The node that has it. If that has gone, it is here from now on."""
        identifier = path.removeprefix(_REGISTER)
        if path in _CHANGES:
            try:
                identifier = msgspec.json.decode(body, type=Changed).client_id
            except (msgspec.MsgspecError, UnicodeError):
                return None  # whoever reads it says what is wrong
        if self._registry.has(identifier):
            return None
        owner = await self._registrations.owner(id_hash(identifier))
        if owner is None and (fetching := self._registry.fetch(identifier)) is not None:
            await fetching
        return owner

    async def _forward(self, owner: str, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Whether the owner has answered, or its client waits no more."""
        self._number += 1
        number = self._number
        request = encode(request_of(scope, body, number))
        answer = asyncio.ensure_future(self._company.ask(owner, _SUBJECT, request, _PATIENCE))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self._company.say(_GONE, b"%d" % number, owner)
                return True
        finally:
            leaving.cancel()
            answer.cancel()
        answered = answer.result()
        if answered is None:
            return False
        said = decode(answered)
        assert isinstance(said, wire.Answer)
        await send_answer(said, send)
        return True

    async def _asked(self, node: str, data: bytes) -> bytes:
        request = decode(data)
        assert isinstance(request, wire.Request)
        gone = self._serving[node, request.number] = asyncio.Event()
        try:
            return encode(await serve(self._app, request, gone, self))
        finally:
            del self._serving[node, request.number]

    def _gone(self, node: str, data: bytes) -> None:
        gone = self._serving.get((node, int(data)))
        if gone is not None:
            gone.set()

    def _lost(self, node: str) -> None:
        for (asker, _), gone in self._serving.items():
            if asker == node:
                gone.set()


def request_of(scope: Scope, body: bytes, number: int) -> wire.Request:
    """A request as it is handed to another node."""
    peer: Peer = scope["partyline.peer"]
    return wire.Request(
        number,
        scope["method"],
        scope["path"],
        scope.get("raw_path") or b"",
        scope["query_string"],
        [(bytes(name), bytes(value)) for name, value in scope["headers"]],
        body,
        peer.address,
        peer.scheme,
        peer.host,
        peer.local,
    )


async def serve(app: ASGIApp, request: wire.Request, gone: asyncio.Event, owner: object) -> wire.Answer:
    """Answer a request of another node; `gone` is set when its client has left."""
    started: dict[str, Any] = {"status": 500, "headers": []}
    body: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "headers": request.headers,
        "client": (request.address, 0),
        "server": None,
        "scheme": request.scheme,
        "root_path": "",
        "state": {},
        "app": owner,  # Starlette's router raises 404 and 405 if it finds an application here
        "partyline.peer": Peer(request.address, request.scheme, request.host, request.local),
        "partyline.abort": gone.set,
    }
    await app(scope, again(request.body, lambda: _disconnected(gone)), send)
    headers = [(bytes(name), bytes(value)) for name, value in started["headers"]]
    return wire.Answer(request.number, started["status"], headers, b"".join(body))


async def send_answer(answer: wire.Answer, send: Send) -> None:
    """Send on what another node has answered."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


async def whole(receive: Receive, most: int) -> bytes | None:
    """A body; None where its client has gone. Raises PayloadTooLarge."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise PayloadTooLarge(f"the body is longer than {most} bytes", limit="max_body")
        if not message.get("more_body"):
            return b"".join(parts)


def again(body: bytes, receive: Callable[[], Awaitable[Message]]) -> Receive:
    """`receive` once more, from the beginning of the body."""
    told = False

    async def receiving() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _disconnected(gone: asyncio.Event) -> Message:
    await gone.wait()
    return {"type": "http.disconnect"}
