"""What the HTTP connections of one server serve: an ASGI application with its scopes, and OPTIONS *."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import ASGIApp

from partyline.server.cycle import Cycle
from partyline.server.exchange import Exchange
from partyline.server.foreign import ForeignSocket
from partyline.server.site import Site
from partyline.trust.perimeter import Peer
from partyline.wire.http.head import Head

NOBODY: Final = Peer("", "http", "")  # the client of an OPTIONS *


class Served:
    """What the connections of one server serve, besides what they share in the site.

    `foreign` says that WebSockets on other paths go to `app`, too.
    """

    def __init__(self, site: Site, app: ASGIApp, *, foreign: bool = False) -> None:
        self.site = site
        self.app = app
        self.foreign = foreign
        self.state: dict[str, Any] = {}  # of the application's lifespan
        self.tasks: set[asyncio.Task[None]] = set()

    def scope(self, transport: asyncio.Transport, kind: str, head: Head, path: str) -> dict[str, Any]:
        """The scope of a request that came by `transport` (ASGI, HTTP and WebSocket connection scope)."""
        secure = transport.get_extra_info("sslcontext")
        schemes = ("http", "https") if kind == "http" else ("ws", "wss")
        return {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": address_of(transport.get_extra_info("sockname")),
            "client": address_of(transport.get_extra_info("peername")),
            "scheme": schemes[bool(secure)],
            "root_path": "",
            "path": path,
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self.state.copy(),
        }

    def run(self, cycle: Cycle | ForeignSocket) -> None:
        """Let the application handle it, in a task of its own."""
        task = asyncio.get_running_loop().create_task(cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Options:
    """Answers OPTIONS * (RFC 9110 9.3.7), with which proxies check that the server is alive."""

    max_body = 0
    body_setting = "max_body"

    def begin(self, exchange: Exchange) -> None:
        """Anybody may ask."""

    def respond(self, exchange: Exchange) -> None:
        exchange.answer([(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")], b"")


def address_of(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for one that has none (a Unix socket)."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
