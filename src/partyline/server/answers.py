"""Errors as HTTP answers: the one place where the HTTP form of an error is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.types import Send

from partyline.errors import HandshakeRefused, PartylineError
from partyline.wire.engineio.handshake import refusal_body
from partyline.wire.http.head import Headers

SAFETY_HEADERS: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110 5.1
_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")


def checked(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An application's headers, with names in lower case, without those that the server sets itself.

    Raises ValueError if one would end its line.
    """
    pairs = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    for name, value in pairs:
        if not _NAME.match(name) or not _VALUE.match(value):
            raise ValueError(f"{name!r} cannot be sent as a header with this value")
    return [pair for pair in pairs if pair[0] != b"transfer-encoding"]


def error_body(error: PartylineError) -> bytes:
    """`{"error": {"code", "message", "field"?}}`; Engine.IO's refusals have their own form."""
    if isinstance(error, HandshakeRefused):
        return refusal_body(error)
    inner = {"code": error.code, "message": error.message}
    if error.field is not None:
        inner["field"] = error.field
    return msgspec.json.encode({"error": inner})


def error_headers(error: PartylineError, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with this error, without the safety headers that every answer has."""
    pairs = [("content-type", "application/json"), ("content-length", str(len(body))), *error.headers()]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def raw_answer(error: PartylineError, extra: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole HTTP/1.1 answer, the connection's last, for use without an ASGI application."""
    body = error_body(error)
    status = HTTPStatus(error.http_status)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    headers = error_headers(error, body) + SAFETY_HEADERS + [*extra]
    lines += [name + b": " + value for name, value in headers if name != b"connection"]
    lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def answer_error(error: PartylineError, send: Send, kind: str = "http", extra: Headers = []) -> None:  # noqa: B006
    """Answer an HTTP request with `error`, or a WebSocket's with an ASGI extension as `kind`."""
    body = error_body(error)
    headers = error_headers(error, body) + extra
    await send({"type": f"{kind}.response.start", "status": error.http_status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
