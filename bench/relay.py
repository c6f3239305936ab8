"""Opens subscribers: at Partyline's relay they register first, elsewhere they just connect."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from bench.catalog import RELAY
from bench.load import Load
from bench.process import BenchFailed, Server

TOPIC = "cats"


def register(port: int, topics: Iterable[str], first_user: int = 1) -> list[str]:
    """Register one user for each topic of `topics`; returns their WebSocket paths in order.

    Each gets a user id of its own, because a user's registrations are limited.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    paths: list[str] = []
    try:
        for user, topic in enumerate(topics, first_user):
            body = json.dumps({"user_id": user, "topics": [topic]})
            connection.request("POST", "/register", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise BenchFailed(f"POST /register was answered {response.status}: {answer[:200]!r}")
            paths.append(urlsplit(json.loads(answer)["url"]).path)
    finally:
        connection.close()
    return paths


def subscribers(server_name: str, server: Server, core: int | None, count: int, window: int = 1) -> Load:
    """`count` subscribers of one topic and one publisher, ready to run."""
    arguments = ["--connections", str(count), "--window", str(window)]
    if server_name != RELAY:
        return Load("listen", server.port, core, *arguments)
    paths = register(server.port, [TOPIC] * count)
    return publisher(server, core, *arguments, paths=paths)


def publisher(
    server: Server, core: int | None, *arguments: str, topic: str = TOPIC, paths: list[str] | None = None
) -> Load:
    """A publisher by HTTP, with the subscribers whose paths are given."""
    return Load("listen", server.port, core, "--publish", "http", "--topic", topic, *arguments, paths=paths)
