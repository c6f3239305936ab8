"""A TLS handshake, on a connection that counts and is limited from when it was accepted.

The loop's own TLS servers tell nobody of a connection before its handshake is over: so many could wait in them that the
database would find no descriptor.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any, Final, cast

from partyline.errors import PartylineError
from partyline.server.http import HttpConnection
from partyline.server.served import Served, address_of

_COST: Final = 0.0015  # seconds that a handshake counts for: its steps cannot be measured


class Securing(asyncio.Protocol):
    """What accepts a connection, until it is an `HttpConnection` over TLS. A `server.site.Live`."""

    def __init__(self, served: Served, context: ssl.SSLContext) -> None:
        self._served = served
        self._site = served.site
        self._context = context
        self._address = ""
        self._refusal: PartylineError | None = None
        self._socket: socket.socket | None = None  # while it waits for its turn
        self._task: asyncio.Task[None] | None = None

    # asyncio.Protocol, of a transport that reads nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        accepted = cast("asyncio.Transport", transport)
        site = self._site
        name = address_of(accepted.get_extra_info("peername"))
        self._address = name[0] if name else ""
        self._refusal = site.enter(self._address)
        site.live.add(self)
        try:
            if not site.flooded:
                self._socket = socket.socket(fileno=os.dup(accepted.get_extra_info("socket").fileno()))
        except OSError:  # no descriptor is left
            pass
        accepted.abort()  # only this end of it: nothing has been read
        if self._socket is None:
            self._leave()
        elif not site.fair.owes(self, self._address):
            self.go_on()

    # server.fair.Busy

    def go_on(self) -> None:
        if self._socket is not None:
            self._task = asyncio.get_running_loop().create_task(self._secure(self._socket))
            self._task.add_done_callback(self._done)

    async def _secure(self, accepted: socket.socket) -> None:
        self._socket = None  # it is closed with the transport
        site = self._site
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Secured(self._served, self),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=site.limits.tls_handshake_timeout,
                ssl_shutdown_timeout=site.limits.close_timeout,
            )
        except OSError as error:  # the peer's fault: ssl.SSLError is one, and so is what ends a wait
            if isinstance(error, ConnectionAbortedError):
                site.counters.hit("tls_handshake_timeout")

    def _done(self, task: asyncio.Task[None]) -> None:
        if self in self._site.live:
            self._site.fair.came_for_nothing(_COST, self._address)
            self._leave()

    def handed_over(self) -> PartylineError | None:
        """The handshake is done, and the connection counts on; why its first request is refused, if it is."""
        self._site.live.discard(self)
        return self._refusal

    def _leave(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._site.live.discard(self)
        self._site.leave(self._address)

    # server.site.Live

    def shutdown(self) -> None:
        """Nothing has been asked yet: drop it."""
        if self._task is not None:
            self._task.cancel()
        elif self in self._site.live:
            self._site.fair.forget(self, self._address)
            self._leave()

    abort = shutdown


class _Secured(HttpConnection):
    """An HTTP connection that was counted before its handshake."""

    __slots__ = ("_securing",)

    def __init__(self, served: Served, securing: Securing) -> None:
        super().__init__(served)
        self._securing: Any = securing

    def _enter(self) -> PartylineError | None:
        securing, self._securing = self._securing, None
        self._spent += _COST
        return cast("Securing", securing).handed_over()
