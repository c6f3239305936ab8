"""The relay's answers as values, shared by the API, the v1 session and the OpenAPI document."""

from __future__ import annotations

import msgspec

from partyline.models import Movement, Receipt
from partyline.wire.relay import Entry


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    field: str | None = None


class Error(msgspec.Struct):
    error: ErrorDetail


class Status(msgspec.Struct):
    status: str


class Health(Status, omit_defaults=True):
    """What is promised now. Of a server of its own there is nothing to say: what it promises does not change."""

    durability: str = ""  # what an accepted message survives, if the log is an engine's
    log: str = ""  # the engine of a log that servers share
    bus: str = ""  # that of the bus between them
    nodes: int = 0  # how many servers are known to be on it, this one among them


# The classic calls


class Registered(msgspec.Struct):
    url: str


class TopicsOf(msgspec.Struct):
    topics: list[str]


class ClassicReceipt(msgspec.Struct):
    topic: str
    position: str | None
    id: str


# v1


class Published(msgspec.Struct):
    topic: str
    position: str | None
    id: str
    duplicate: bool

    @classmethod
    def of(cls, receipt: Receipt) -> Published:
        """The answer for an accepted message."""
        return cls(receipt.room, _position(receipt), receipt.id, receipt.duplicate)


class PublishedBatch(msgspec.Struct):
    messages: list[Published]


class HistoryPage(msgspec.Struct):
    topic: str
    messages: list[Entry]
    next: str
    more: bool
    recovered: bool


class StreamEvent(msgspec.Struct):
    """One event of the stream: `data` is a message as in history, with its `topic`; `gap` says what was missed."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: int | None = None


class Users(msgspec.Struct, omit_defaults=True):
    """`missing` are the servers that did not answer."""

    topic: str
    users: list[str]
    missing: list[str] = []


class TopicCount(msgspec.Struct):
    topic: str
    connections: int


class TopicCounts(msgspec.Struct, omit_defaults=True):
    topics: list[TopicCount]
    missing: list[str] = []


class ConnectionOf(msgspec.Struct):
    id: str
    user_id: str | None
    topics: list[str]


class Connections(msgspec.Struct, omit_defaults=True):
    connections: list[ConnectionOf]
    missing: list[str] = []


class Revoked(msgspec.Struct, omit_defaults=True):
    time: float
    ended: int
    sub: str | None = None
    jti: str | None = None


# What a v1 session says


class Welcome(msgspec.Struct):
    connection: str
    server: str
    heartbeat: float


class Done(msgspec.Struct):
    """A command was carried out; there is nothing more to say."""


class Known(msgspec.Struct):
    """The answer to `auth`. A key has no user."""

    user: str | msgspec.UnsetType = msgspec.UNSET


class Subscribed(msgspec.Struct):
    """Where a subscription begins. `oldest` is the oldest position still kept, if something was missed."""

    position: str
    recovered: bool
    oldest: str | msgspec.UnsetType = msgspec.UNSET


class PublishedHere(msgspec.Struct):
    """As `Published`, with `message_id`: the `id` of an answer is its command's."""

    topic: str
    position: str | None
    message_id: str
    duplicate: bool

    @classmethod
    def of(cls, receipt: Receipt) -> PublishedHere:
        return cls(receipt.room, _position(receipt), receipt.id, receipt.duplicate)


class UsersHere(msgspec.Struct, omit_defaults=True):
    users: list[str]
    missing: list[str] = []


class Reached(msgspec.Struct):
    """Nothing is missing up to this position."""

    position: str


class Missed(msgspec.Struct):
    """Retention overtook a subscription that was catching up; it goes on from `position`."""

    topic: str
    position: str
    recovered: bool
    oldest: str


class Moved(msgspec.Struct):
    """A user has come to a topic, or left it."""

    topic: str
    user: str

    @classmethod
    def of(cls, movement: Movement) -> Moved:
        return cls(movement.room, movement.user)


def _position(receipt: Receipt) -> str | None:
    return None if receipt.position is None else str(receipt.position)
