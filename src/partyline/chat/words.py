"""What people may say, and how often."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable
from typing import Any

MOST_TEXT = 4_000  # characters; the page says so before the server does
MOST_NAME = 40
MOST_ROOM = 60
_SLACK = 4  # times as much may come, with spaces and invisible characters; more than that is refused unread

Answer = dict[str, Any]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tabs and line ends
# Invisible characters that could make a name look like another; those that join emoji and letters stay.
_HIDDEN = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff"
    r"\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_UNSEEN = ("Cc", "Cf", "Me", "Mn", "Zl", "Zp", "Zs")
_HALVES = re.compile(r"[\ud800-\udfff]")


class Refused(Exception):
    """A request was refused; `answer` is its acknowledgement."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.answer: Answer = {"error": code, "message": message, **more}


def seen(found: str) -> bool:
    """Whether any of it is visible. Characters unknown to Python, such as new emoji, count as visible."""
    return any(unicodedata.category(letter) not in _UNSEEN for letter in _HIDDEN.sub("", found))


def text(said: str) -> str:
    """A message's text as it is sent on. Raises Refused."""
    _check_length(said, MOST_TEXT * _SLACK, MOST_TEXT, "message", "text")
    said = _HALVES.sub("\ufffd", said).replace("\r\n", "\n").replace("\r", "\n")
    said = _CONTROLS.sub("", said).strip()
    if not seen(said):
        raise Refused("empty", "there is nothing in it", field="text")
    _check_length(said, MOST_TEXT, MOST_TEXT, "message", "text")
    return said


def message_id(given: str) -> str:
    """The id of a message, chosen by its author. Raises Refused."""
    if not 8 <= len(given) <= 64:
        raise Refused("invalid_id", "the id of a message has 8 to 64 characters", field="id")
    return given


def name(given: str, most: int, field: str) -> str:
    """A name on one line, without invisible characters, in its canonical spelling. Raises Refused."""
    _check_length(given, most * _SLACK, most, field, field)
    visible = _HIDDEN.sub("", _CONTROLS.sub(" ", _HALVES.sub("\ufffd", given)))
    found = unicodedata.normalize("NFC", " ".join(visible.split()))
    if not seen(found):
        raise Refused("empty", f"the {field} needs at least one character that can be seen", field=field)
    _check_length(found, most, most, field, field)
    return found


def _check_length(given: str, limit: int, most: int, what: str, field: str) -> None:
    """Raises Refused. Called before anything else is done with `given`: NFC takes the square of its length."""
    if len(given) > limit:
        message = f"a {what} has at most {most:,} characters, and this one has {len(given):,}"
        raise Refused("too_long", message, field=field)


def remember(kept: dict[Any, Any], key: object, value: object, most: int) -> None:
    """Put it last, and forget the first if there are more than `most`."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]


class Pace:
    """How often a client may do something: `rate` times a second in the long run, `burst` times at once."""

    __slots__ = ("_at", "_burst", "_clock", "_left", "_rate")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def allows(self) -> bool:
        """Take one time, if there is one left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def check(self) -> None:
        """The same; raises Refused, with the seconds to wait."""
        if not self.allows():
            wait = round((1 - self._left) / self._rate, 2)
            raise Refused("rate_limited", "that is too fast: wait a moment", wait=wait)
