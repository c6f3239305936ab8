"""Errors as HTTP answers: the one place where the HTTP form of an error is written."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from partyline.errors import HandshakeRefused, PartylineError
from partyline.wire.engineio.handshake import refusal_body

SAFETY_HEADERS: list[tuple[str, str]] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
]


def error_body(error: PartylineError) -> bytes:
    """`{"error": {"code", "message", "field"?}}`; what Engine.IO refuses, in its own form."""
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


def raw_answer(error: PartylineError) -> bytes:
    """A whole HTTP/1.1 answer for where no ASGI application is involved. It ends the connection."""
    body = error_body(error)
    status = HTTPStatus(error.http_status)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    headers = error_headers(error, body) + [(n.encode(), v.encode()) for n, v in SAFETY_HEADERS]
    lines += [name + b": " + value for name, value in headers if name != b"connection"]
    lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
