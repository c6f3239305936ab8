"""The commands of /v1/ws, and the server's frames as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from partyline.errors import (
    Conflict,
    Forbidden,
    HeadTooLarge,
    InvalidValue,
    MalformedRequest,
    MisdirectedRequest,
    NotFound,
    Overloaded,
    PartylineError,
    PayloadTooLarge,
    RateLimited,
    RequestError,
    RequestTimeout,
    ServerError,
    StoreUnavailable,
    TooManyTopics,
    Unauthenticated,
    UnsupportedMediaType,
    UpgradeRequired,
)
from partyline.models import Position
from partyline.wire.json import read as read_json
from partyline.wire.json import to_json

# The errors by code (docs/reference/limits.md). A frame has no status, so the code alone has to do.
_CODES: Final[dict[type[PartylineError], tuple[str, ...]]] = {
    MalformedRequest: ("malformed_json", "too_deep"),
    Unauthenticated: ("token_expired", "token_revoked"),
    Forbidden: ("foreign_origin", "forwarded_in_open_mode", "open_mode_is_local"),
    NotFound: ("unknown_connection", "not_subscribed"),
    RequestTimeout: (),
    Conflict: ("id_conflict", "already_subscribed", "already_authenticated"),
    PayloadTooLarge: (),
    UnsupportedMediaType: (),
    MisdirectedRequest: (),
    InvalidValue: (
        *("invalid_topic", "invalid_user_id", "invalid_position", "too_many_rooms", "batch_size", "not_supported"),
        *("unknown_command", "too_many_pending"),
    ),
    UpgradeRequired: (),
    RateLimited: ("too_many_connections", "too_many_registrations"),
    HeadTooLarge: (),
    StoreUnavailable: (),
    Overloaded: ("keys_unavailable",),
    TooManyTopics: (),
}
_KINDS: Final = {code: kind for kind, codes in _CODES.items() for code in (kind.code, *codes)}
_STATUSES: Final = {kind.http_status: kind for kind in _CODES if kind is not StoreUnavailable}
_LONGEST: Final = 3600.0  # seconds: the longest `retry_after` that is believed

After = Position | Literal["earliest", "latest"]
"""Where a subscription begins: after a position, at the oldest message kept, or now."""


class Body(msgspec.Struct):
    """A message as in a page of history."""

    position: str | None = None
    id: int | str | None = None
    time: float = 0.0
    data: msgspec.Raw = msgspec.Raw(b"null")
    sender: str | None = msgspec.field(default=None, name="from")
    user_id: str | None = None
    key: str | None = None


class Frame(Body):
    """Any frame of the server. `type` says which of the fields apply."""

    type: str = ""
    topic: str = ""
    code: str = ""
    message: str = ""
    message_id: str = ""
    duplicate: bool = False
    recovered: bool = True
    oldest: str | None = None
    heartbeat: float = 25.0
    messages: list[Body] = []  # all of the topic of the page
    next: str = ""
    more: bool = False
    users: list[str] = []


_decoder: Final = msgspec.json.Decoder(Frame)


def read(text: str) -> Frame:
    """A frame of the server. Raises PartylineError `bad_frame` for anything else."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PartylineError(f"the server sent an invalid v1 frame: {error}", code="bad_frame") from None


def error_of(code: str, message: str, *, status: int = 0, retry_after: str | None = None) -> PartylineError:
    """A refusal of the server as one of our errors: by its code, or else by its HTTP status."""
    kind = _KINDS.get(code) or _STATUSES.get(status) or (RequestError if status and status < 500 else ServerError)
    error = kind(message)
    error.code = code
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        # RFC 9110 10.2.3. The other form, a date, is not read: clocks differ, and backoff will do.
        error.retry_after = min(float(retry_after[:9]), _LONGEST)
    if kind is ServerError or kind is RequestError:
        error.temporary = status in (500, 502, 503, 504)
    return error


def position_of(text: str | None) -> Position:
    """A position in a frame. Raises PartylineError `bad_frame`."""
    try:
        return Position.parse(text or "")
    except PartylineError as error:
        raise PartylineError(f"the server sent an invalid position: {error}", code="bad_frame") from None


def command(kind: str, number: int, **fields: Any) -> bytes:
    """A command as JSON, without the fields that are None."""
    chosen = {name: value for name, value in fields.items() if value is not None}
    return to_json({"type": kind, "id": number, **chosen})


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was received.

    `position` is its place in the log, None for an ephemeral one; `time` is seconds since 1970 by the server's clock;
    `sender` is the authenticated publisher, `user` the addressee, if any; `raw` is its JSON.
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
        """The message's value, decoded now. A number that Python cannot hold is the nearest float, perhaps infinite."""
        return read_json(self.raw)


def message_of(topic: str, body: Body) -> Message:
    """The message in a frame, or in a page of history."""
    position = None if body.position is None else position_of(body.position)
    raw, user = bytes(body.data), body.user_id
    return Message(topic, raw, position, str(body.id), body.time, body.sender, user, body.key)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages were missed: the server keeps nothing before `oldest`. The subscription goes on at `position`."""

    topic: str
    oldest: Position | None
    position: Position


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a topic's log, oldest first. `next` is what to ask for the next page with, if there is `more`.

    `recovered` is False if messages after the requested position are gone.
    """

    messages: list[Message]
    next: Position
    more: bool
    recovered: bool
