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

MAX_DEPTH = 64

_T = TypeVar("_T")
# A string, or what begins like one and has no end: possessive and never failing, or hostile quotes make it quadratic.
_STRING = re.compile(rb'"(?>[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NESTING = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(
    rb"(\\\\)|(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
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
    """What to answer where msgspec could not read something; it names the field."""
    if not isinstance(error, msgspec.ValidationError):
        return MalformedRequest(f"this is not JSON: {error}", code="malformed_json")
    text = str(error)
    found = _FIELD.match(text)
    reason, field = (found[1], found[2]) if found else (text, None)
    if missing := _MISSING.search(text):
        field = missing[1]
    named = f"{field}: {reason}" if field else reason
    return InvalidValue(named.replace("`", "'"), field=field)


def check_depth(data: bytes) -> None:
    """Raises MalformedRequest `too_deep` where arrays and objects nest deeper than 64 levels."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _NESTING.finditer(_STRING.sub(b"", data)):
        if match[0] in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedRequest(
                    f"the JSON nests deeper than {MAX_DEPTH} levels", code="too_deep", limit="json_depth"
                )
        else:
            depth -= 1


def mend_surrogates(data: bytes) -> bytes:
    """JSON text with each escaped lone surrogate replaced by U+FFFD: half a character must not cost a message."""
    if b"\\u" not in data:
        return data
    return _SURROGATE.sub(lambda match: match[0] if match[1] or match[2] else b"\\ufffd", data)


def compact(raw: bytes) -> bytes:
    """A JSON value without the white space between its tokens; numbers and strings as they were written."""
    return msgspec.json.format(raw, indent=-1)


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:  # Python reads an integer of 4,300 digits at most, since that takes quadratic time
        return float(text)


def read(raw: bytes, integer: Callable[[str], int | float] | None = None) -> Any:
    """Any JSON as a value, whatever numbers it has.

    A number that Python cannot read is the nearest double, which may be an infinity: JavaScript reads it so. `integer`
    reads an integer from its digits where other integers have to become doubles, too.
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
