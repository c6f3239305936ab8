"""What the system's sockets are told beyond what a loop's transports can be."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

# RFC 5482. Linux has it; elsewhere dead peers last as long as the system lets them.
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


def reap_dead_peers(listener: socket.socket, seconds: float) -> None:
    """Let connections of this listener end when what was sent is not acknowledged for so long.

    Without it the kernel goes on for a quarter of an hour, and a client that only listens (to an event stream) is never
    found out. Accepted sockets inherit it, so that nothing is done for each.
    """
    if _USER_TIMEOUT is not None:
        with contextlib.suppress(OSError):  # a Unix socket
            listener.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, round(seconds * 1000))
