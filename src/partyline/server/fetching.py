"""A WebSocket handshake that waits until another node has handed over what it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from partyline.errors import PartylineError
from partyline.wire.http.head import Headers


class Fetching:
    """A `server.http.InHand`; `then` is called once with the error, if there was one, unless the client leaves."""

    keep_alive = False
    watched = True
    answered = False
    failed = True  # until it is a WebSocket, the answer can only be a refusal
    backlog = 0

    def __init__(
        self, fetched: asyncio.Future[None], headers: Headers, then: Callable[[PartylineError | None], None]
    ) -> None:
        self.headers = headers
        self._fetched = fetched
        self._then = then
        fetched.add_done_callback(self._done)

    def take(self, piece: bytes) -> None:
        """A handshake has no body."""

    def respond(self) -> None:
        """A handshake has no body."""

    def lost(self) -> None:
        """The client has gone, or gets another answer."""
        self._fetched.cancel()

    def _done(self, fetched: asyncio.Future[None]) -> None:
        if fetched.cancelled():
            return
        error = fetched.exception()
        if error is None or isinstance(error, PartylineError):
            self._then(error)
        else:
            self._then(PartylineError("the server failed; its log says why, and the request may be tried again"))
