"""WebSockets that have come for a session: one that opens its own, and one that is to take over from polling."""

from __future__ import annotations

import asyncio
from typing import cast

from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Request
from partyline.engineio.sessions import Sessions
from partyline.errors import HandshakeRefused, PartylineError
from partyline.interfaces import Connection
from partyline.server.site import Carrier
from partyline.server.writing import OWN_READ, takes_bundles
from partyline.wire.engineio.handshake import Asked


class Opening:
    """A WebSocket that opens a session of its own."""

    __slots__ = ("_asked", "_connection", "_handshake", "_later", "_sessions", "_websocket", "sid")

    def __init__(self, sessions: Sessions, asked: Asked, handshake: Request, sid: str) -> None:
        self._sessions = sessions
        self._asked = asked
        self._handshake = handshake
        self._websocket: Carrier | None = None
        self._connection: EngineConnection | None = None
        self._later: asyncio.TimerHandle | None = None
        self.sid = sid

    def opened(self, connection: Connection) -> None:
        self._websocket = cast("Carrier", connection)
        if self._asked.protocol == 3 and not takes_bundles(self._handshake.headers):
            self._later = asyncio.get_running_loop().call_later(OWN_READ, self._begin)
        else:
            self._begin()

    def _begin(self) -> EngineConnection | None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            if self._later is not None:
                self._later.cancel()
            try:
                text, connection = self._sessions.open(self._asked, self._handshake, self.sid, websocket)
            except HandshakeRefused as error:  # the application has reused its id meanwhile
                websocket.close(1011, error.message)
                return None
            self._connection = connection
            websocket.hand_to(connection)
            websocket.send_text(text)
            self._sessions.begin(connection, self._handshake)
        return self._connection

    # Only messages that come before the open packet is out, in one read with the handshake, come here.

    def text(self, text: str) -> None:
        if (connection := self._begin()) is not None:
            connection.text(text)

    def binary(self, data: bytes) -> None:
        if (connection := self._begin()) is not None:
            connection.binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        if (connection := self._begin()) is not None:
            connection.refused(error, message)

    def closed(self) -> None:
        self._websocket = None
        if self._later is not None:
            self._later.cancel()


class Candidate:
    """A WebSocket that is to take over a session from polling."""

    __slots__ = ("_base64", "_connection", "_websocket")

    def __init__(self, connection: EngineConnection, asked: Asked) -> None:
        self._connection: EngineConnection | None = connection
        self._base64 = asked.base64
        self._websocket: Carrier | None = None

    def opened(self, connection: Connection) -> None:
        assert self._connection is not None
        carrier = cast("Carrier", connection)
        if self._connection.attach(carrier):
            self._websocket = carrier
        else:
            self._connection = None
            # Not before the answers of polling, which an ASGI server may still have in its queues.
            asyncio.get_running_loop().call_later(OWN_READ, connection.close, 1000)

    def text(self, text: str) -> None:
        if not self._probed(text) and self._connection is not None:
            self._connection.text(text)

    def binary(self, data: bytes) -> None:
        if not self._probed(data) and self._connection is not None:
            self._connection.binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        if not self._probed(message) and self._connection is not None:
            self._connection.refused(error, message)

    def _probed(self, message: str | bytes) -> bool:
        """Take a message of a candidate; False if it has taken over, and this came in the same read."""
        websocket, connection = self._websocket, self._connection
        if websocket is None or connection is None:
            return False
        if connection.probe(websocket, message, base64=self._base64):
            websocket.hand_to(connection)
            self._websocket = None
        return True

    def closed(self) -> None:
        if self._websocket is not None and self._connection is not None:
            self._connection.detach(self._websocket)
