"""Turns an application's values that the encoders refuse into values that they accept.

Only what an encoder has refused comes here. Whatever `json.dumps` would write is written: subclasses of text and
numbers (markupsafe's, Django's, numpy's), keys that are True or None. So are pydantic's models, which handlers may
name in annotations. Half a surrogate pair becomes U+FFFD. For anything else the error names the place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

import msgspec

from partyline.errors import InvalidValue
from partyline.wire.socketio.attachments import BINARY
from partyline.wire.websocket.frames import utf8

T = TypeVar("T")

UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, BufferError)
"""What the encoders raise."""

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1


def plain(values: Sequence[Any], places: Sequence[str]) -> list[Any]:
    """The same values, of plain types. Raises InvalidValue, which names the place of a value that cannot be sent."""
    return [_argument(value, place) for value, place in zip(values, places, strict=True)]


def frozen(arguments: Sequence[Any]) -> list[Any]:
    """A copy of an event's arguments, which later changes do not reach. Raises InvalidValue."""
    return plain(arguments, places(len(arguments), event=False))


def in_messagepack(write: Callable[[list[Any]], T], values: list[Any], places: Callable[[], list[str]]) -> T:
    """Call `write` with values that MessagePack can hold: keys, dates and the like become text, as in JSON.
    Raises InvalidValue, which names the place of a value that cannot be sent."""
    try:
        return write(msgspec.to_builtins(values, builtin_types=BINARY, str_keys=True))
    except UNWRITABLE:
        names = places()
        made = plain(values, names)
        for value, place in zip(made, names, strict=True):
            check_integers(value, place)
        return write(made)


def check_integers(values: Any, place: str) -> None:
    """Raises InvalidValue for a whole number of more than 64 bits in plain values: MessagePack has no form for it."""
    if isinstance(values, dict):
        for key, value in values.items():
            check_integers(value, f"{place}[{_shown(key)}]")
    elif isinstance(values, list):
        for at, value in enumerate(values):
            check_integers(value, f"{place}[{at}]")
    elif isinstance(values, int) and not _LEAST <= values <= _MOST:
        raise _unwritable(place, "is a whole number of more than 64 bits: send it as a text")


def places(count: int, *, event: bool) -> list[str]:
    """What errors call each value of a packet: an event begins with its name, an acknowledgement does not."""
    names = [f"argument {number}" for number in range(1, count + (not event))]
    return ["event", *names] if event else names


def _argument(value: Any, place: str) -> Any:
    try:
        return _plain(value, place)
    except RecursionError:
        raise _unwritable(place, "nests too deep, or in a circle") from None


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, place)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, BINARY):
        return bytes(value)
    if isinstance(value, Mapping):
        return {_key(key, place): _plain(item, f"{place}[{_shown(key)}]") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, f"{place}[{at}]") for at, item in enumerate(value)]
    return _object(value, place)


def _object(value: Any, place: str) -> Any:
    """Objects with fields, dates and the like."""
    if hasattr(type(value), "model_dump"):  # pydantic's
        return _plain(value.model_dump(), place)
    try:
        made = msgspec.to_builtins(value, builtin_types=BINARY, str_keys=True, enc_hook=lambda one: _plain(one, place))
    except UNWRITABLE:
        made = value
    if made is value:
        raise _unwritable(place, f"is a {type(value).__qualname__}, which has no form in JSON or MessagePack")
    return _plain(made, place)


def _text(value: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return utf8(text).decode()
    return text


def _key(key: Any, place: str) -> str:
    """A key as `json.dumps` writes it."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, Enum):
        return _key(key.value, place)
    if isinstance(key, str):
        return _text(key)
    if isinstance(key, int):
        return int.__repr__(key)
    if isinstance(key, float):
        return float.__repr__(key)
    made = msgspec.to_builtins(key) if not isinstance(key, BINARY) else key  # dates, UUIDs
    if not isinstance(made, str):
        raise _unwritable(place, f"has a key that is a {type(key).__qualname__}, not a text")
    return made


def _shown(key: Any) -> str:
    return repr(key)[:40]


def _unwritable(place: str, reason: str) -> InvalidValue:
    return InvalidValue(f"{place} cannot be sent: it {reason}", code="invalid_arguments", field="arguments")
