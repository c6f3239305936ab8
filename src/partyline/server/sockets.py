"""Options of the system's sockets that a loop's transports cannot set."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

# RFC 5482. Linux has it; elsewhere dead peers last as long as the system lets them.
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


def reap_dead_peers(listener: socket.socket, seconds: float) -> None:
    """Let connections of this listener end when sent data is not acknowledged for so many seconds.

    Otherwise the kernel goes on for a quarter of an hour, and the death of a client that only listens (to an event
    stream) goes unnoticed. Accepted sockets inherit the option.
    """
    if _USER_TIMEOUT is not None:
        with contextlib.suppress(OSError):  # a Unix socket
            listener.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, round(seconds * 1000))
