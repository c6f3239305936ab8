"""What Socket.IO's official adapters have been seen to publish, call by call: tests/vectors/cluster-*.json.

Captured with Redis' MONITOR from socket.io 4.8.4 with two servers, A and B, in the namespaces / and /chat.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.vectors.node import vectors


class Vector(NamedTuple):
    """One publication: what was called on A, who published, where, and what."""

    call: str
    who: str
    channel: str
    data: bytes


def published(form: str) -> list[Any]:
    """All of one form, as parameters of a test."""
    found = []
    for number, one in enumerate(vectors(f"cluster-{form}")):
        if "fields" in one:
            continue  # it is added to a stream
        data = bytes.fromhex(one["hex"]) if "hex" in one else one["text"].encode()
        vector = Vector(one["call"], one["from"], one["channel"], data)
        found.append(pytest.param(vector, id=f"{number}-{one['call'][:40]}"))
    return found


def plain(data: bytes) -> Any:
    """What JSON or MessagePack says, whatever the order of its keys."""
    return json.loads(data) if data[:1] == b"{" else msgspec.msgpack.decode(data)
