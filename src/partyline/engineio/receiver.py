"""What opens a connection, and what receives its messages."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from partyline.errors import PartylineError
from partyline.trust.perimeter import Peer


class Request(Struct, frozen=True):
    """The request that opened a connection. `query` is raw, header names are in lower case."""

    transport: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    peer: Peer


class Receiver(Protocol):
    """Receives what comes on one connection, in order of arrival; an exception costs the message only."""

    def connected(self) -> None:
        """The connection is open: it may be sent to."""
        ...

    def message(self, data: str | bytes) -> None:
        """A message of the client."""
        ...

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """A message that was not handled, because of a limit."""
        ...

    def alive(self) -> None:
        """A heartbeat was answered: what was sent before it has arrived."""
        ...

    def disconnected(self, reason: str) -> None:
        """It is over; called exactly once if `connected` was. `reason` is one of Node's words."""
        ...
