"""The envelope around bytes between nodes: their sender and a number, so that a loss is noticed.

One byte for the version, eight for the sender, eight for the number of this message among those of its sender on its
subject. A receiver counts the numbers that it misses, when the next message on the same subject comes; it drops a
message whose number it has had already, since the bus promises at most once.
"""

from __future__ import annotations

import secrets
import struct
from typing import Final

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">B8sQ")
_SERIES: Final = 40  # the bits of a number that count; those above them are its series
_MOST_SUBJECTS: Final = 100_000  # about 15 MB
_MOST_NODES: Final = 1_000  # on one subject; a node that restarts is a new one


def node_name() -> str:
    """A name for a node: 16 hex digits, new for each process that starts."""
    return secrets.token_hex(8)


class Envelopes:
    """One node's numbers: of what it has sent, and of what it has heard from the others."""

    __slots__ = ("_begin", "_heard", "_said", "_sender", "lost", "unreadable")

    def __init__(self, node: str) -> None:
        """`node` is its name, as `node_name` makes them."""
        self._sender = bytes.fromhex(node)
        self._said: dict[str, int] = {}  # by subject, the number of the newest message
        self._begin = 0  # of this series
        self._heard: dict[str, dict[bytes, int]] = {}  # by subject and sender, likewise
        self.lost = 0
        self.unreadable = 0  # of another version, or not of a node at all

    def wrap(self, subject: str, data: bytes) -> bytes:
        """The next message on a subject."""
        newest = self._said.get(subject)
        if newest is None:
            if len(self._said) >= _MOST_SUBJECTS:
                self._said.clear()
                self._begin += 1 << _SERIES
            newest = self._begin
        number = self._said[subject] = newest + 1
        return _HEAD.pack(_VERSION, self._sender, number) + data

    def unwrap(self, subject: str, message: bytes) -> tuple[str, bytes] | None:
        """The sender and its data; None for a message of our own, one seen before, or one that no node sent."""
        if len(message) < _HEAD.size or message[0] != _VERSION:
            self.unreadable += 1
            return None
        _, sender, number = _HEAD.unpack_from(message)
        if sender == self._sender:
            return None
        heard = self._heard.setdefault(subject, {})
        newest = heard.get(sender)
        if newest is not None:
            if number <= newest:
                return None
            if number >> _SERIES == newest >> _SERIES:
                self.lost += number - newest - 1
        elif len(heard) >= _MOST_NODES:
            heard.clear()
        heard[sender] = number
        return sender.hex(), message[_HEAD.size :]

    def unlisten(self, subject: str) -> None:
        """Stop counting on this subject: what comes on it from now on is not lost."""
        self._heard.pop(subject, None)
