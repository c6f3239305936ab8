"""What one worker hands to another one over a Unix socket: a request for a session that the other one has, and its
answer."""

from __future__ import annotations

from typing import Final

import msgspec

from partyline.wire.http.head import Headers
from partyline.wire.keeper import Numbered


class Request(Numbered, frozen=True):
    """A request that has been admitted. `address` and those after it say who asks, as `trust.perimeter.Peer`."""

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


class Gone(Numbered, frozen=True):
    """The client that sent the request waits no more."""


class Count(Numbered, frozen=True):
    """What has been counted?"""


class Answer(Numbered, frozen=True):
    status: int
    headers: Headers
    body: bytes


class Counts(Numbered, frozen=True):
    totals: dict[str, int]
    limits: dict[str, int]
    connections: int = 0


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Request | Gone | Count | Answer | Counts).decode
