"""The messages between a worker and its keeper on a Unix socket: frames of a length in four bytes and msgpack.

A worker asks numbered questions, and each gets one answer, in any order. Both also send messages without an answer:
those of the bus, and changes in a watched table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from partyline import errors
from partyline.errors import MalformedRequest, PartylineError
from partyline.interfaces import Outcome, Refused, Stored, View
from partyline.models import Draft, Message

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of one frame: a piece of the log, or an append, which has at most 4 MiB and one more message."""

_LENGTH: Final = struct.Struct(">I")


class Frames:
    """Cuts arriving bytes into frames."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises MalformedRequest for one that is too long, before it is read."""
        ahead = self._ahead
        ahead += data
        found: list[bytes] = []
        at = 0
        while len(ahead) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(ahead, at)
            if length > MAX_FRAME:
                raise MalformedRequest(f"a frame of {length} bytes is longer than {MAX_FRAME}")
            end = at + _LENGTH.size + length
            if len(ahead) < end:
                break
            found.append(bytes(ahead[at + _LENGTH.size : end]))
            at = end
        del ahead[:at]
        return found


def frame(content: bytes) -> bytes:
    """One frame."""
    return _LENGTH.pack(len(content)) + content


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=str.lower):
    """One message, tagged with its class's name."""


class Numbered(_Message, frozen=True):
    """A question, or its answer, which repeats the number."""

    number: int


# Of a worker


class Hello(_Message, frozen=True):
    """The first message on a line: the node's name."""

    node: str


class Connect(Numbered, frozen=True):
    offset: int


class Append(Numbered, frozen=True):
    """`since` is an offset above which some of it may be in the log already; None if it cannot be."""

    epoch: str
    groups: list[list[Draft]]
    since: int | None = None


class Tail(Numbered, frozen=True):
    epoch: str
    after: int
    limit: int
    wait: float


class Head(Numbered, frozen=True):
    """The answer is the highest offset."""


class Renew(Numbered, frozen=True):
    epoch: str


class Read(Numbered, frozen=True):
    epoch: str
    view: View
    after: int
    limit: int


class Newest(Numbered, frozen=True):
    epoch: str
    room: str
    before: int
    limit: int


class Get(Numbered, frozen=True):
    table: str
    key: str


class Put(Numbered, frozen=True):
    table: str
    key: str
    value: bytes
    life: float


class Take(Numbered, frozen=True):
    table: str
    key: str


class Watch(Numbered, frozen=True):
    """From then on changes come as Changed."""

    table: str


class List(Numbered, frozen=True):
    """The answer is a page of values, sorted by key, above `after`; an empty page is the last."""

    table: str
    after: str | None = None


class Ready(Numbered, frozen=True):
    """Answered when everything said before has been done."""


class Count(Numbered, frozen=True):
    """The answer is the keeper's counters, plain ones and those of limits."""


class Listen(_Message, frozen=True):
    subject: str


class Unlisten(_Message, frozen=True):
    subject: str


class Say(_Message, frozen=True):
    subject: str
    message: bytes


Asked = Connect | Append | Tail | Head | Renew | Read | Newest | Get | Put | Take | Watch | List | Ready | Count
Told = Hello | Listen | Unlisten | Say

# Of the keeper


class Answer(Numbered, frozen=True):
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A PartylineError, by the name of its class."""

    kind: str
    message: str
    code: str = ""
    field: str | None = None
    limit: str | None = None

    @classmethod
    def of(cls, error: PartylineError) -> Failure:
        return cls(type(error).__name__, error.message, error.code, error.field, error.limit)

    def error(self) -> PartylineError:
        """The error again."""
        kind = _ERRORS.get(self.kind, PartylineError)
        return kind(self.message, code=self.code, field=self.field, limit=self.limit)


class Failed(Numbered, frozen=True):
    """`failure` None: the log's epoch is not the one that was named."""

    failure: Failure | None


class Heard(_Message, frozen=True):
    subject: str
    message: bytes


class Changed(_Message, frozen=True):
    table: str
    key: str
    value: bytes | None


class Left(_Message, frozen=True):
    """A worker has gone."""

    node: str


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a draft: its offset and time, the message that it repeats, or why it is not kept."""

    offset: int = 0
    time: float = 0.0
    earlier: Message | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Placed:
        if isinstance(outcome, Refused):
            return cls(failure=Failure.of(outcome.error))
        message = outcome.message
        return cls(message.offset or 0, message.time, message if outcome.duplicate else None)

    def outcome(self, draft: Draft) -> Outcome:
        """The outcome for the draft's worker."""
        if self.failure is not None:
            return Refused(draft, self.failure.error())
        if self.earlier is not None:
            return Stored(draft, self.earlier, duplicate=True)
        return Stored(draft, Message(draft, self.offset, self.time))


class Piece(msgspec.Struct, frozen=True):
    """An `interfaces.Stretch`, of messages that are encoded already."""

    messages: Sequence[msgspec.Raw]
    oldest: int
    refusal: str = ""


_ERRORS: Final[dict[str, type[PartylineError]]] = {
    kind.__name__: kind
    for kind in (
        errors.Conflict,
        errors.InvalidValue,
        errors.Overloaded,
        errors.PayloadTooLarge,
        errors.StoreUnavailable,
        errors.TooManyTopics,
    )
}

encode: Final = msgspec.msgpack.Encoder().encode
decode_worker: Final = msgspec.msgpack.Decoder(Asked | Told).decode
decode_keeper: Final = msgspec.msgpack.Decoder(Answer | Failed | Heard | Changed | Left).decode
