"""What is in the stream of a log, by subject, and how it is written.

With P for the deployment's prefix, and a room or a rule as tokens of a subject:

==================  ===================================================================================================
P.log.epoch         the epoch, the time at which the stream was made, and the process of the server that had it
P.log.room.<room>   a message: its sequence in the stream is its offset. JSON with everything but the data, a line's
                    end, and the data
P.log.id.<hash>     the id of the message that comes next, chosen by its publisher: the message's time, and a hash of
                    its content. Expires
P.log.gone.<room>   the highest offset that retention took of a room
P.log.over.<rule>   the highest offset that retention took of rooms of a rule, long ago
P.log.pruned        the highest offset that retention took
==================  ===================================================================================================
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import msgspec

from partyline.adapters.nats.address import filtered, plain, short, tokens
from partyline.adapters.nats.stream import Kept
from partyline.interfaces import View
from partyline.models import Draft, Message

_Head = tuple[int, str, str, str | None, str | None, str | None, float | None, bool | None, str]
_encode = msgspec.json.encode
_decode_head: Final = msgspec.json.Decoder(_Head).decode

STREAM: Final[dict[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_age": 0,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "allow_direct": True,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_rollup_hdrs": True,
}
"""What the stream has to be like."""


class Epoch(msgspec.Struct, frozen=True):
    """The record of an epoch."""

    epoch: str
    created: str
    server: str = ""


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """What retention took of a room, or of the rooms of a rule, and when."""

    name: str
    offset: int
    time: float = 0.0


class Subjects:
    """The subjects of one deployment."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}.log"
        self.stream = f"{prefix}_log"
        self.everything = f"{self.prefix}.>"
        self.epoch = f"{self.prefix}.epoch"
        self.rooms = f"{self.prefix}.room.>"
        self.gones = f"{self.prefix}.gone.>"
        self.overs = f"{self.prefix}.over.>"
        self.pruned = f"{self.prefix}.pruned"
        self._room = f"{self.prefix}.room.".encode()
        self._id = f"{self.prefix}.id.".encode()

    def room(self, room: str) -> bytes:
        """That of a room's messages. Raises InvalidValue."""
        return self._room + tokens(room)

    def name(self, subject: str) -> str:
        """The room with this subject."""
        return plain(subject[len(self._room) :])

    def is_room(self, subject: bytes) -> bool:
        """Whether messages have this subject."""
        return subject.startswith(self._room)

    def id(self, identity: str) -> bytes:
        """That of the record of an id."""
        return self._id + identity.encode()

    def gone(self, subject: bytes) -> str:
        """That of what a room has lost, by the room's own subject."""
        return f"{self.prefix}.gone.{subject.decode()[len(self._room) :]}"

    def over(self, rule: str) -> str:
        """That of what rooms of a rule have lost."""
        return f"{self.prefix}.over.{short(rule).decode()}"

    def filters(self, view: View) -> list[bytes]:
        """Filters for the messages that a view covers."""
        return [*map(self.room, view.rooms), *(self._room + filtered(pattern) for pattern in view.patterns)]


def identity(draft: Draft) -> str:
    """What stands for a draft's identity. Raises UnicodeEncodeError."""
    return blake2b("\0".join(draft.identity).encode(), digest_size=16).hexdigest()


def content(draft: Draft) -> str:
    """What stands for what a retry has to repeat. Raises UnicodeEncodeError."""
    narrowed = draft.user is not None or draft.key is not None
    key = blake2b(_encode((draft.user, draft.key))).digest() if narrowed else b""
    return blake2b(draft.data, digest_size=16, key=key).hexdigest()


def written(draft: Draft, microseconds: int) -> bytes:
    """A draft as it is kept. Raises UnicodeEncodeError."""
    head = _encode(
        (
            microseconds,
            draft.room,
            draft.id,
            draft.user,
            draft.key,
            draft.sender,
            draft.ttl,
            draft.durable,
            draft.publisher,
        )
    )
    return head + b"\n" + draft.data


def message(kept: Kept) -> Message:
    """A message that is kept."""
    head, _, data = kept.data.partition(b"\n")
    time, room, message_id, user, key, sender, ttl, durable, publisher = _decode_head(head)
    draft = Draft(room, data, message_id, user, key, sender, ttl, durable, publisher)
    return Message(draft, kept.sequence, time / 1e6)
