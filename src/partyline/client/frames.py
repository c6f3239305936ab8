"""What a line says and hears: the commands of /v1/ws, and the server's frames as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from partyline.errors import (
    Conflict,
    Forbidden,
    InvalidValue,
    MisdirectedRequest,
    NotFound,
    Overloaded,
    PartylineError,
    RateLimited,
    RequestError,
    ServerError,
    StoreUnavailable,
    TooManyTopics,
    Unauthenticated,
)
from partyline.models import Position
from partyline.wire.relay import to_json

_NAMED: Final = (
    Conflict,
    Forbidden,
    InvalidValue,
    MisdirectedRequest,
    NotFound,
    Overloaded,
    RateLimited,
    StoreUnavailable,
    TooManyTopics,
    Unauthenticated,
)
_KINDS: Final = {
    **{kind.code: kind for kind in _NAMED},
    "id_conflict": Conflict,
    "invalid_topic": InvalidValue,
    "invalid_position": InvalidValue,
    "already_subscribed": Conflict,
    "not_subscribed": NotFound,
    "too_many_rooms": InvalidValue,
}
_STATUSES: Final = {kind.http_status: kind for kind in _NAMED if kind is not StoreUnavailable}

After = Position | Literal["earliest", "latest"]
"""Where a subscription begins: behind a position, at the oldest message kept, or now."""


class Body(msgspec.Struct):
    """A message as it stands in a page of history."""

    topic: str = ""
    position: str | None = None
    id: int | str | None = None
    time: float = 0.0
    data: msgspec.Raw = msgspec.Raw(b"null")
    sender: str | None = msgspec.field(default=None, name="from")
    user_id: str | None = None
    key: str | None = None


class Frame(Body):
    """Any frame of the server. `type` says which of the fields mean something."""

    type: str = ""
    code: str = ""
    message: str = ""
    message_id: str = ""
    duplicate: bool = False
    recovered: bool = True
    oldest: str | None = None
    heartbeat: float = 25.0
    messages: list[Body] = []
    next: str = ""
    more: bool = False
    users: list[str] = []


_decoder: Final = msgspec.json.Decoder(Frame)


def read(text: str) -> Frame:
    """A frame of the server. Raises PartylineError `bad_frame` for anything that is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PartylineError(f"the server sent what is no frame of v1: {error}", code="bad_frame") from None


def error_of(code: str, message: str, *, status: int = 0, retry_after: str | None = None) -> PartylineError:
    """A refusal of the server as one of our errors: by its code, or else by its HTTP status."""
    kind = _KINDS.get(code) or _STATUSES.get(status) or (RequestError if status and status < 500 else ServerError)
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else 1.0
    error = RateLimited(message, retry_after=seconds) if kind is RateLimited else kind(message)
    error.code = code
    if kind is ServerError or kind is RequestError:
        error.temporary = status in (500, 502, 503, 504)
    return error


def position_of(text: str | None) -> Position:
    """A position in a frame. Raises PartylineError `bad_frame`."""
    try:
        return Position.parse(text or "")
    except PartylineError as error:
        raise PartylineError(f"the server sent a position that is none: {error}", code="bad_frame") from None


def command(kind: str, number: int, **fields: Any) -> bytes:
    """A command as JSON, without the fields that are None."""
    chosen = {name: value for name, value in fields.items() if value is not None}
    return to_json({"type": kind, "id": number, **chosen})


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came.

    `position` is its place in the log, None for an ephemeral one; `time` is seconds since 1970 by the server's clock;
    `sender` the authenticated publisher and `user` the one it is addressed to, where there is one; `raw` its JSON.
    """

    topic: str
    raw: bytes
    position: Position | None
    id: str
    time: float
    sender: str | None = None
    user: str | None = None
    key: str | None = None

    @property
    def data(self) -> Any:
        """The message's value, decoded now."""
        return msgspec.json.decode(self.raw)


def message_of(body: Body) -> Message:
    """The message in a frame, or in a page of history."""
    position = None if body.position is None else position_of(body.position)
    raw, user = bytes(body.data), body.user_id
    return Message(body.topic, raw, position, str(body.id), body.time, body.sender, user, body.key)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages were missed: the server keeps nothing before `oldest`. The subscription goes on at `position`."""

    topic: str
    oldest: Position | None
    position: Position


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a topic's log, oldest first. `next` is what to ask for the next page with, if there is `more`.

    `recovered` is False where messages behind the position that was asked for are gone.
    """

    messages: list[Message]
    next: Position
    more: bool
    recovered: bool
