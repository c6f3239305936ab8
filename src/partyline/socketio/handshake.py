"""How a socket's client came: the request that opened its connection, and the auth of its CONNECT."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from partyline.engineio.receiver import Request
from partyline.trust.addresses import source


class Handshake:
    """`auth` came with CONNECT ({} if nothing did), `address` is the peer's, `time` is in seconds since 1970.

    The request is kept packed: most applications never look at it, and there is one for each connection.
    """

    __slots__ = ("_headers", "_query", "_size", "address", "auth", "secure", "time")

    def __init__(self, request: Request, time: float) -> None:
        self._query = request.query
        self._headers = b"\n".join([name + b":" + value for name, value in request.headers])
        self.address = request.peer.address
        self.secure = request.peer.scheme in ("https", "wss")
        self.time = time
        self.auth: dict[str, Any] = {}
        self._size = 0  # of the CONNECT, in bytes or characters

    def _of(self, auth: dict[str, Any] | None, size: int = 0) -> Handshake:
        """The same with the auth of one CONNECT."""
        new = Handshake.__new__(Handshake)
        new._query, new._headers = self._query, self._headers
        new.address, new.secure, new.time = self.address, self.secure, self.time
        new.auth = {} if auth is None else auth
        new._size = size
        return new

    @property
    def network(self) -> str:
        """What limits per address count: the address, or the /64 of an IPv6 address, which belongs to one peer."""
        return source(self.address)

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; the last of several with one name."""
        pairs = (line.split(b":", 1) for line in self._headers.split(b"\n") if line)
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the URL."""
        return dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))
