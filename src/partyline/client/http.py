"""One HTTP/1.1 connection for one request at a time, as long-polling needs it."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

import httptools

from partyline.client.socket import Address
from partyline.errors import Disconnected

_MAX_BODY: Final = 16 * 1024 * 1024
_MAX_HEAD: Final = 256 * 1024  # one read of body may be in it


class Answer:
    """A whole answer. Header names are in lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Http(asyncio.Protocol):
    """Requests to one server. If the server has closed the connection, the next request opens a new one."""

    def __init__(self, address: Address, headers: list[tuple[str, str]], tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._headers = headers
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._found: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._head = 0  # bytes that came before the headers were complete, -1 after that
        self._answer: asyncio.Future[Answer] | None = None

    async def request(self, method: str, target: str, body: bytes = b"", content: str = "") -> Answer:
        """One request and its answer. Raises Disconnected. Cancelled, the connection is dropped."""
        if self._transport is None or self._transport.is_closing():
            await self._open()
        transport = self._transport
        assert transport is not None
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address.authority}"]
        lines += [f"{name}: {value}" for name, value in self._headers]
        if method == "POST":
            lines += [f"Content-Type: {content}", f"Content-Length: {len(body)}"]
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        try:
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def _open(self) -> None:
        address = self._address
        context = (self._tls or ssl.create_default_context()) if address.secure else None
        self._parser = httptools.HttpResponseParser(self)
        self._found, self._body, self._size, self._head = {}, [], 0, 0
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self,
                address.host,
                address.port,
                ssl=context,
                server_hostname=address.host if context is not None else None,
            )
        except OSError as error:
            raise Disconnected(f"{address.authority} cannot be reached: {error.strerror or error}") from None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._head >= 0:
            self._head += len(data)
            if self._head > _MAX_HEAD:
                self._fail(f"{self._address.authority} sent a head of more than {_MAX_HEAD} bytes")
                self.close()
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"{self._address.authority} does not speak HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"{self._address.authority} closed the connection")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._found[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head = -1

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)
        if self._size > _MAX_BODY:
            self._fail(f"{self._address.authority} sent more than {_MAX_BODY} bytes")
            self.close()

    def on_message_complete(self) -> None:
        found, self._found = self._found, {}
        body, self._body, self._size, self._head = b"".join(self._body), [], 0, 0
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Answer(self._parser.get_status_code(), found, body))
        if not self._parser.should_keep_alive():
            self.close()

    def _fail(self, why: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(Disconnected(why))
