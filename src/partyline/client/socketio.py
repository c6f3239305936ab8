"""A Socket.IO client: `async with socketio.connect(url, "/chat", auth=...) as chat`.

Protocol 5 over Engine.IO 4, as clients of Socket.IO 3 and 4 speak it, on polling and WebSocket. It reconnects with full
jitter, and recovers missed events if the server keeps them.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from partyline.client.engine import POLLING, WEBSOCKET, Route
from partyline.client.namespace import Auth, Client, State
from partyline.client.shared import SharedConnection
from partyline.client.socket import Address
from partyline.errors import ConfigError
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Parser

__all__ = ["Client", "Connecting", "State", "connect"]

_PARSERS: Final[dict[str, Parser]] = {"json": JSON, "msgpack": MSGPACK}


def connect(
    url: str,
    namespace: str = "/",
    *,
    auth: Auth = None,
    path: str = "/socket.io/",
    transports: Sequence[str] = (POLLING, WEBSOCKET),
    parser: str = "json",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    reconnect: bool = True,
    open_timeout: float = 10.0,
    least_delay: float = 0.5,
    most_delay: float = 30.0,
    timeout: float = 10.0,
    max_message: int = 16_000_000,
) -> Connecting:
    """Connect to a namespace: `async with connect(url, "/chat") as chat`, or `chat = await connect(url)`.

    `url` is the server's (http, https, ws or wss), `path` its Engine.IO path. `auth` goes along with CONNECT: an
    object, or a function (async too) asked at each connect. `transports` are tried in their order: polling is upgraded.
    `parser` is "json" or "msgpack", as the server's. `least_delay` and `most_delay` bound the waits between tries in
    seconds, each drawn from the whole range below a bound that doubles; without `reconnect` there is one connection.
    `open_timeout` is how long the first one may take in seconds: until then a server that is not there (yet) is tried
    again, 0 tries once. `timeout` is what each attempt may take.

    Raises InvalidValue for a bad `url`, ConnectionRefused with the server's message and data, Disconnected where there
    is no server in time. Cancelled, it leaves nothing open.
    """
    if parser not in _PARSERS:
        raise ConfigError(f"parser: {parser!r} must be json or msgpack", field="parser")
    if not transports or not set(transports) <= {POLLING, WEBSOCKET}:
        raise ConfigError(f"transports: {transports!r} must be of polling and websocket", field="transports")
    address = Address.parse(url, path.rstrip("/"))
    route = Route(
        Address(address.host, address.port, address.secure, address.path + "/", address.authority),
        tuple((headers or {}).items()),
        tls,
        transports,
        timeout,
        max_message,
    )
    link = SharedConnection(
        route,
        _PARSERS[parser],
        reconnect=reconnect,
        least_delay=least_delay,
        most_delay=most_delay,
        patience=open_timeout,
    )
    return Connecting(link, link.add(namespace, auth))


class Connecting:
    """A client that is not connected yet: await it, or use `async with`. Made by `connect`."""

    def __init__(self, link: SharedConnection, client: Client) -> None:
        self._link = link
        self._client = client

    @property
    def client(self) -> Client:
        """The client to be, for handlers that must not miss the first event."""
        return self._client

    async def _open(self) -> Client:
        try:
            await self._client.open()
        except BaseException:
            await self._link.close()
            raise
        return self._client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        return await self._open()

    async def __aexit__(self, *failure: object) -> None:
        await self._link.close()
