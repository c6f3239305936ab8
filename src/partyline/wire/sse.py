"""Server-sent events (WHATWG HTML, section 9.2): one event as bytes."""

from __future__ import annotations

from typing import Final

COMMENT: Final = b":\n\n"


def event(data: bytes | None, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's own name
    """One event. Without `data` it sets Last-Event-ID and is not dispatched.

    `data` is JSON or other text in UTF-8. Each CR LF, CR or LF in it begins a new data line. An `id` with NUL, CR or LF
    is left out, since a browser would ignore it or read a field out of it.
    """
    lines: list[bytes] = []
    if id is not None and not any(char in id for char in "\0\r\n"):
        lines.append(b"id: " + id.encode())
    if data is not None:
        for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            lines.append(b"data: " + line)  # noqa: PERF401
    return b"\n".join(lines) + b"\n\n"


def retry(milliseconds: int) -> bytes:
    """How long a browser waits before it connects again."""
    return b"retry: %d\n\n" % milliseconds
