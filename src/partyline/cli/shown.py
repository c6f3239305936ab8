"""Shows what others wrote: it must not control the terminal, or look like our own words."""

from __future__ import annotations

import json
from datetime import datetime

from partyline.topics import is_printable


def plain(text: str) -> str:
    """`text` with the characters that control a terminal written as escapes."""
    if is_printable(text):
        return text
    return "".join(one if is_printable(one) else one.encode("unicode_escape").decode() for one in text)


def printable_json(text: str) -> str:
    """Equal JSON with the characters that control a terminal escaped."""
    return text if is_printable(text) else "".join(one if is_printable(one) else _escaped(one) for one in text)


def moment(seconds: object) -> datetime | None:
    """Seconds since 1970, as somebody else gave them, as a time; None if they are not one."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, ValueError, OSError):
        return None


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"  # json writes DEL as it is
