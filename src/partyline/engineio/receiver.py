"""The request that opens a connection, and the receiver of its messages."""

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
    """Receives the messages of one connection, in order of arrival; an exception costs only the message."""

    def connected(self) -> None:
        """The connection is open: messages may be sent."""

    def message(self, data: str | bytes) -> None:
        """A message of the client."""

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """A message that was not handled, because of a limit."""

    def alive(self) -> None:
        """A heartbeat was answered: everything sent before it has arrived."""

    def disconnected(self, reason: str) -> None:
        """It is over; called exactly once if `connected` was. `reason` is one of Node's words."""
