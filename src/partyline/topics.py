"""Topic names and topic patterns: what is one, and which names a pattern covers.

A name is 1-200 characters of printable Unicode in dot-separated, non-empty tokens, without spaces, control characters
and ``* > / ? # % \\``; names that begin with ``$`` are reserved. In a pattern ``*`` stands for one token and a last
``>`` for one or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from partyline.errors import InvalidValue

MAX_LENGTH = 200
_FORBIDDEN = re.compile(r"[ *>/?#%\\]")
_RULE = (
    "a topic is 1-200 printable characters in dot-separated, non-empty tokens, "
    "without spaces and * > / ? # % \\, and does not begin with $"
)


def check_topic(name: str, field: str = "topic") -> str:
    """`name` itself if it is a topic name; raises InvalidValue naming `field`."""
    if (
        0 < len(name) <= MAX_LENGTH
        and name.isprintable()
        and not _FORBIDDEN.search(name)
        and name[0] != "$"
        and name[0] != "."
        and name[-1] != "."
        and ".." not in name
    ):
        return name
    shown = name if len(name) <= 60 else name[:60] + "..."
    raise InvalidValue(f"{field} {shown!r} is not a topic name: {_RULE}", code="invalid_topic", field=field)


def check_pattern(pattern: str, field: str = "pattern") -> str:
    """`pattern` itself if it is one: a topic name whose tokens may be `*`, the last one also `>`."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        tokens[-1] = "x"
    plain = ".".join(part.replace("*", "x") if part == "*" else part for part in tokens)
    try:
        check_topic(plain, field)
    except InvalidValue:
        raise InvalidValue(
            f"{field} {pattern[:60]!r} is not a pattern: {_RULE}; * is one token, a last > is the rest",
            code="invalid_topic",
            field=field,
        ) from None
    return pattern


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` covers the topic `name`."""
    if pattern in (">", name):
        return True
    wanted, tokens = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(want in ("*", token) for want, token in zip(wanted, tokens, strict=False))


def is_pattern(text: str) -> bool:
    """Whether `text` is meant as a pattern: a topic name has neither * nor >."""
    return "*" in text or ">" in text


def contains(wide: str, narrow: str) -> bool:
    """Whether every topic that the pattern `narrow` covers is covered by the pattern `wide`, too."""
    wanted, tokens = wide.split("."), narrow.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted) or tokens[-1] == ">":
        return False
    return all((want == "*" and token != ">") or want == token for want, token in zip(wanted, tokens, strict=False))


def overlap(one: str, other: str) -> bool:
    """Whether some topic is covered by both patterns."""
    ours, theirs = one.split("."), other.split(".")
    for left, right in zip(ours, theirs, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(ours) == len(theirs)


def any_covers(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` covers `name`."""
    return any(covers(pattern, name) for pattern in patterns)
