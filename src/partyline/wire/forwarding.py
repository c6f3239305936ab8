"""What one worker hands to another one over a Unix socket: a request for a session that the other one has, and its
answer."""

from __future__ import annotations

from typing import Final

import msgspec

from partyline.wire.http.head import Headers


class Request(msgspec.Struct, frozen=True, array_like=True, tag="request"):
    """A request that has been admitted. `address` and those after it say who asks, as `trust.perimeter.Peer`."""

    number: int
    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    body: bytes
    address: str
    scheme: str
    host: str
    local: bool


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """The client that sent the request waits no more."""

    number: int


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """What has been counted?"""

    number: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    number: int
    status: int
    headers: Headers
    body: bytes


class Counts(msgspec.Struct, frozen=True, array_like=True, tag="counts"):
    number: int
    totals: dict[str, int]
    limits: dict[str, int]
    connections: int = 0


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Request | Gone | Count | Answer | Counts).decode
