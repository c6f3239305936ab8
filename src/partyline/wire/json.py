"""JSON from strangers: what is refused before it is read, how it is read, and values of ours written as JSON.

Numbers are passed on as they were written (decision 0022). Only `read` makes values of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from partyline.errors import InvalidValue, MalformedRequest
from partyline.wire.lanes import nests_deeper, replace_lone

MAX_DEPTH = 64

_T = TypeVar("_T")
# Strangers send megabytes of JSON: it is looked at in whole passes, never byte by byte.
_NOT_NESTING = bytes(set(range(256)) - set(b'[]{}"\\'))
_BACKSLASH = ord("\\")
_SAID = 200  # characters of a value that a refusal quotes
_FIELD = re.compile(r"^(.*) - at `\$\.([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read JSON from a peer into `kind`.

    Lone surrogates become U+FFFD. Raises MalformedRequest (400: not UTF-8, not JSON, `too_deep` beyond 64 levels) or
    InvalidValue (422: JSON of another shape), which name the field.
    """
    check_depth(data)
    try:
        data.decode()  # msgspec.Raw is copied as it is, so what goes through it is checked here
        return msgspec.json.decode(mend_surrogates(data), type=kind)
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the JSON is not UTF-8 at byte {error.start}", code="malformed_json") from None
    except msgspec.MsgspecError as error:
        raise refusal(error) from None


def refusal(error: msgspec.MsgspecError) -> InvalidValue | MalformedRequest:
    """The answer to JSON that msgspec could not read; it names the field."""
    if not isinstance(error, msgspec.ValidationError):
        return MalformedRequest(f"this is not JSON: {error}", code="malformed_json")
    text = str(error)
    if len(text) > _SAID:  # it quotes a value whole, and ends with its place
        text = text[:_SAID] + "..." + text[text.rfind(" - at `$") :]
    found = _FIELD.match(text)
    reason, field = (found[1], found[2]) if found else (text, None)
    if missing := _MISSING.search(text):
        field = missing[1]
    named = f"{field}: {reason}" if field else reason
    return InvalidValue(named.replace("`", "'"), field=field)


def check_depth(data: bytes) -> None:
    """Raises MalformedRequest `too_deep` if arrays and objects nest deeper than 64 levels."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    # A string without brackets is now two quotes; without them every other bracket is in or out of a string as before.
    marks = data.translate(None, _NOT_NESTING).replace(rb"\\", b"").replace(rb"\"", b"").replace(b'""', b"")
    if nests_deeper(marks.replace(b"\\", b""), MAX_DEPTH):
        raise MalformedRequest(f"the JSON nests deeper than {MAX_DEPTH} levels", code="too_deep", limit="json_depth")


def mend_surrogates(data: bytes) -> bytes:
    """JSON text in UTF-8 with U+FFFD for each escaped lone surrogate: half a character must not lose a message."""
    if _BACKSLASH not in data:
        return data
    # Not `in`, which is slow for more than a byte. Searching for letters is fast in any text.
    lower, upper = data.find(b"ud"), data.find(b"uD")
    if (lower < 0 or data.find(b"\\ud") < 0) and (upper < 0 or data.find(b"\\uD") < 0):
        return data
    first = min(at for at in (lower, upper) if at >= 0)
    # An odd number of backslashes before it makes it an escape, which begins with the last of them.
    first -= (first - len(data[:first].rstrip(b"\\"))) % 2
    last = max(data.rfind(b"ud"), data.rfind(b"uD")) + 5
    return data[:first] + replace_lone(data[first:last]) + data[last:]


def compact(raw: bytes) -> bytes:
    """A JSON value without the white space between its tokens; numbers and strings as they were written."""
    return msgspec.json.format(raw, indent=-1)


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:  # Python reads 4,300 digits at most, since reading an integer takes quadratic time
        return float(text)


def read(raw: bytes, integer: Callable[[str], int | float] | None = None) -> Any:
    """Any JSON as a value, whatever numbers it has.

    A number that Python cannot read becomes the nearest double, which may be an infinity, as in JavaScript. `integer`
    reads an integer from its digits, if more of them have to become doubles.
    """
    if integer is None:
        try:
            return msgspec.json.decode(raw)
        except msgspec.MsgspecError:
            integer = _integer
    return json.loads(mend_surrogates(raw), parse_int=integer)


def to_json(value: Any) -> bytes:
    """A value of ours as JSON."""
    return msgspec.json.encode(value)
