"""Binary values beside JSON: each is a message of its own, and the JSON has a placeholder for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from partyline.errors import InvalidPacket, InvalidValue

PLAIN: Final = frozenset((str, int, float, bool, type(None), msgspec.Raw))  # a Raw is JSON already
BINARY: Final = (bytes, bytearray, memoryview)


class Body(msgspec.Struct, frozen=True):
    """The name and the arguments of an event as packets carry them: encoded once for all recipients.

    `data` is a JSON array with its `attachments` beside it, or an array in MessagePack as bytes.
    """

    data: str | bytes
    attachments: tuple[bytes, ...] = ()


def take_out(values: Sequence[Any]) -> tuple[Sequence[Any], list[bytes]]:
    """The values with placeholders for the binary ones, at any depth, and the binary values in order.

    Values without binary ones come back as they are; nothing is changed in place. Raises InvalidValue if something
    looks like a placeholder and there are binary values too: a client could not tell them apart.
    """
    attachments = _Attachments()
    replaced = _replaced(values, attachments)
    if attachments and attachments.lookalike:
        raise InvalidValue(
            "an object with _placeholder in it cannot be sent beside binary values: clients would take it for one of "
            "them",
            code="invalid_arguments",
            field="arguments",
        )
    return replaced, attachments


class _Attachments(list[bytes]):
    """The values taken out, and whether anything else looks like a placeholder."""

    lookalike = False


def put_in(values: list[Any], attachments: Sequence[bytes]) -> None:
    """Put binary values back in place of their placeholders, in place.

    Raises InvalidPacket if a placeholder has no attachment, an attachment has no placeholder, or two share one.
    """
    used: set[int] = set()
    # No recursion: the depth of a peer's JSON was checked, but not how deep in the stack an application calls us.
    waiting: list[list[Any] | dict[Any, Any]] = [values]
    while waiting:
        container = waiting.pop()
        for key, value in list(container.items()) if isinstance(container, dict) else enumerate(container):
            if type(value) is list:
                waiting.append(value)
            elif type(value) is dict:
                if value.get("_placeholder") is not True:
                    waiting.append(value)
                    continue
                number = value.get("num")
                if type(number) is not int or not 0 <= number < len(attachments) or number in used:
                    raise InvalidPacket("a placeholder has no attachment of its own")
                used.add(number)
                container[key] = attachments[number]
    if len(used) < len(attachments):
        raise InvalidPacket("an attachment has no placeholder")


def _replaced(value: Any, attachments: _Attachments) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, BINARY):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if kind is list or kind is tuple:
        copy: list[Any] | None = None
        for at, item in enumerate(value):
            if type(item) in PLAIN:
                continue
            new = _replaced(item, attachments)
            if new is not item:
                if copy is None:
                    copy = list(value)
                copy[at] = new
        return value if copy is None else copy
    if kind is dict:
        if value.get("_placeholder") is True:
            attachments.lookalike = True
        changed: dict[Any, Any] | None = None
        for key, item in value.items():
            if type(item) in PLAIN:
                continue
            new = _replaced(item, attachments)
            if new is not item:
                if changed is None:
                    changed = dict(value)
                changed[key] = new
        return value if changed is None else changed
    plain = msgspec.to_builtins(value, builtin_types=BINARY, str_keys=True)
    return plain if type(plain) in PLAIN else _replaced(plain, attachments)
