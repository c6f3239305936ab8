"""`connect`: open a line to an address."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator
from typing import Any

from partyline.client.line import Line
from partyline.client.link import Options, State, Token
from partyline.client.socket import Address


def connect(
    url: str,
    *,
    token: Token | None = None,
    tls: ssl.SSLContext | None = None,
    on_state: Callable[[State, str], None] | None = None,
    open_timeout: float = 10.0,
    least_delay: float = 0.5,
    most_delay: float = 30.0,
    in_flight: int = 256,
    max_message: int = 16_000_000,
) -> Connecting:
    """Connect to a server: `async with connect(url) as line`, or `line = await connect(url)`.

    `url` is the server's (http, https, ws or wss). `token` is an API key or a JWT, or a function (async or not) that
    returns one and is called for every connection: an exception counts as an absent server, unless it is a
    PartylineError that is not `temporary`. `tls` is a context for certificates that the system does not know.
    `on_state(state, reason)` hears of `Line.state`. `open_timeout` is how long the first connection may take in
    seconds: until then a server that is not there (yet) is tried again, 0 tries once. `least_delay` and `most_delay`
    bound the waits between later tries in seconds, each drawn from the whole range below a bound that doubles. At most
    `in_flight` publishes wait for their answers; further ones wait for a place. A message above `max_message` bytes
    ends the connection.

    Raises InvalidValue for a bad `url`, the server's refusal (Unauthenticated, Forbidden ...), Disconnected.
    Cancelled, it leaves nothing open.
    """
    address = Address.parse(url, "/v1/ws")
    options = Options(
        address, token, tls, least_delay=least_delay, most_delay=most_delay, max_message=max_message, on_state=on_state
    )
    return Connecting(options, open_timeout, in_flight)


class Connecting:
    """A line that is not open yet: await it, or use `async with`. Made by `connect`."""

    def __init__(self, options: Options, open_timeout: float, in_flight: int) -> None:
        self._options = options
        self._patience = open_timeout
        self._in_flight = in_flight
        self._line: Line | None = None

    async def _open(self) -> Line:
        line = Line(self._options, in_flight=self._in_flight)
        await line._links[0].open(self._patience)  # noqa: SLF001
        return line

    def __await__(self) -> Generator[Any, None, Line]:
        return self._open().__await__()

    async def __aenter__(self) -> Line:
        self._line = await self._open()
        return self._line

    async def __aexit__(self, *failure: object) -> None:
        if self._line is not None:
            await self._line.aclose()
