"""The relay's messages as JSON: what classic and v1 clients may send, and how messages and errors are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from partyline.errors import InvalidValue
from partyline.models import Message
from partyline.topics import is_printable
from partyline.wire.json import check_depth, mend_surrogates, refusal, to_json

MAX_USER = 128
MAX_USER_ID = (1 << 63) - 1


class Topics(msgspec.Struct):
    """Classic: `{"topics": [...]}` replaces a connection's topics."""

    topics: list[str]


# Commands of v1: JSON objects with a `type`; the answer repeats `id`.

# Dozens of commands may wait for the log: none of them holds a megabyte. What it may be is checked in its turn.
Short: TypeAlias = Annotated[str, msgspec.Meta(max_length=1_024)]
CommandId = int | float | Short | None


class Auth(msgspec.Struct, tag="auth"):
    token: str
    id: CommandId = None


class Subscribe(msgspec.Struct, tag="subscribe"):
    """`topic` is a name or a pattern; `after` a position, "earliest" or "latest" (the default)."""

    topic: Short
    after: Short | None = None
    presence: bool = False
    id: CommandId = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe"):
    topic: Short
    id: CommandId = None


class Publish(msgspec.Struct, tag="publish"):
    topic: str
    data: msgspec.Raw
    user_id: int | float | str | None = None  # 7.0 is the integer 7 in JSON
    message_id: str | None = None
    key: str | None = None
    ttl: float | None = None
    durable: bool | None = None
    id: CommandId = None


class History(msgspec.Struct, tag="history"):
    topic: Short
    after: Short | None = None
    limit: int = 100
    id: CommandId = None


class PresenceOf(msgspec.Struct, tag="presence"):
    topic: str
    id: CommandId = None


class PingCommand(msgspec.Struct, tag="ping"):
    id: CommandId = None


class PingLike(msgspec.Struct):
    """Any command, of which only the id is read."""

    id: CommandId = None


Command = Auth | Subscribe | Unsubscribe | Publish | History | PresenceOf | PingCommand


class Envelope(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}):
    """A message as v1 writes it in `message` frames and in server-sent events."""

    topic: str
    position: str | None
    id: str
    time: float
    data: msgspec.Raw
    sender: str | None = None
    user_id: str | None = None
    key: str | None = None


class Entry(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}):
    """A message in a page of one topic's history."""

    position: str
    id: str
    time: float
    data: msgspec.Raw
    sender: str | None = None
    user_id: str | None = None
    key: str | None = None


class ErrorFrame(msgspec.Struct):
    """Why a command failed."""

    code: str
    message: str


class MessageFrame(Envelope, tag="message", omit_defaults=True, rename={"sender": "from"}):
    """A message as a frame of /v1/ws."""


def envelope(message: Message, epoch: str, kind: type[Envelope] = Envelope) -> Envelope:
    """`message` as v1 writes it. `position` is None if it is not kept."""
    draft = message.draft
    position = None if message.offset is None else f"{epoch}-{message.offset}"
    return kind(
        draft.room, position, draft.id, message.time, msgspec.Raw(draft.data), draft.sender, draft.user, draft.key
    )


def framed(kind: str, command_id: CommandId, value: msgspec.Struct) -> bytes:
    """A frame of /v1/ws: a type, the id of the command that it answers, and the fields of `value`."""
    head = b'{"type":"%b"' % kind.encode()
    if command_id is not None:
        head += b',"id":' + to_json(command_id)
    fields = to_json(value)
    return head + b"," + fields[1:] if len(fields) > 2 else head + b"}"


def entry(message: Message, epoch: str) -> Entry:
    """A kept message as an entry of a page of history."""
    draft = message.draft
    position = f"{epoch}-{message.offset}"
    return Entry(position, draft.id, message.time, msgspec.Raw(draft.data), draft.sender, draft.user, draft.key)


_command: Final = msgspec.json.Decoder(Command)  # made once: reading the union's types takes longer than a command


def decode_command(text: str) -> Command:
    """A v1 command. Raises as `decode` does."""
    data = text.encode()
    check_depth(data)
    try:
        command: Command = _command.decode(mend_surrogates(data))
    except msgspec.MsgspecError as error:
        raise refusal(error) from None
    return command


def find_id(text: str) -> CommandId:
    """The `id` of a malformed command, if that can be read."""
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"), type=PingLike).id
    except (msgspec.MsgspecError, RecursionError):
        return None


def user_text(user_id: float | str, field: str = "user_id") -> str:
    """A user id as the text by which it is compared. Raises InvalidValue naming `field`."""
    if isinstance(user_id, int | float):
        if 0 <= user_id <= MAX_USER_ID and user_id == int(user_id):
            return str(int(user_id))
    elif 0 < len(user_id) <= MAX_USER and is_printable(user_id):
        return user_id
    raise InvalidValue(
        f"{field}: {str(user_id)[:60]!r} is neither an integer from 0 to 2^63-1 nor 1-{MAX_USER} printable characters",
        code="invalid_user_id",
        field=field,
    )


def check_list(names: Sequence[str], limit: int) -> None:
    """Raises InvalidValue if there are more topics than one connection may have."""
    if len(names) > limit:
        raise InvalidValue(
            f"topics: {len(names)} are more than the {limit} one connection may have (topics_per_connection)",
            code="too_many_rooms",
            field="topics",
            limit="topics_per_connection",
        )
