"""Topic names and topic patterns: which texts are valid, and which names a pattern covers.

A name is 1-200 characters of printable Unicode in dot-separated, non-empty tokens, without spaces, control characters
and ``* > / ? # % \\``; names that begin with ``$`` are reserved. In a pattern ``*`` stands for one token and a last
``>`` for one or more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from partyline.errors import InvalidValue

MAX_LENGTH = 200
_FEW: Final = 8  # patterns that are compared one by one
_Tree: TypeAlias = "dict[str, _Tree]"
MAX_TOKENS: Final = 16  # of a pattern in a subscription
MAX_WILDCARDS: Final = 4  # tokens of it that may be `*`
UNPRINTABLE: Final = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
"""Unprintable characters, for a character class: controls, formats and separators (Unicode's Cc, Cf and Z), except
the space. Written out, so that the interpreter's Unicode version does not matter: a new emoji is printable."""

TOKEN: Final = rf"[^ .*>/?#%\\{UNPRINTABLE}]+"

_SURROGATES = r"\ud800-\udfff"  # no JSON text has one, but an argument on the command line may
_NOT_PRINTABLE = re.compile(f"[{UNPRINTABLE}{_SURROGATES}]")
_NAME = re.compile(r"(?!\$)T(?:\.T)*".replace("T", TOKEN.replace("]", _SURROGATES + "]")))
_RULE = (
    "a topic is 1-200 printable characters in dot-separated, non-empty tokens, "
    "without spaces and * > / ? # % \\, and does not begin with $"
)


PRIVATE: Final = "\x1f"
"""The first character of rooms that are not topics, such as Socket.IO's: no pattern covers them, no client can name
them."""


def is_printable(text: str) -> bool:
    """Whether a person can see every character of `text`; spaces are, other separators and controls are not."""
    return not _NOT_PRINTABLE.search(text)


def check_topic(name: str, field: str = "topic") -> str:
    """`name` itself if it is a topic name; raises InvalidValue naming `field`."""
    if len(name) <= MAX_LENGTH and _NAME.fullmatch(name):
        return name
    shown = name if len(name) <= 60 else name[:60] + "..."
    raise InvalidValue(f"{field} {shown!r} is not a topic name: {_RULE}", code="invalid_topic", field=field)


def check_pattern(pattern: str, field: str = "pattern") -> str:
    """`pattern` itself if it is valid: a topic name whose tokens may be `*`, and the last one `>`."""
    try:
        if len(pattern) > MAX_LENGTH:
            raise InvalidValue("too long")
        tokens = pattern.split(".")
        if tokens[-1] == ">":
            tokens[-1] = "x"
        check_topic(".".join("x" if part == "*" else part for part in tokens), field)
    except InvalidValue:
        raise InvalidValue(
            f"{field} {pattern[:60]!r} is not a pattern: {_RULE}; * is one token, a last > is the rest",
            code="invalid_topic",
            field=field,
        ) from None
    return pattern


def check_subscription(pattern: str, field: str = "topic") -> str:
    """`pattern` itself if a client may subscribe to it. Raises InvalidValue.

    So the cost of a publish depends only on its topic: however many patterns there are, at most some thousands can
    cover the same topic, and a handful if it has few tokens.
    """
    check_pattern(pattern, field)
    tokens = pattern.split(".")
    if len(tokens) > MAX_TOKENS or tokens.count("*") > MAX_WILDCARDS:
        raise InvalidValue(
            f"{field} {pattern[:60]!r} has {len(tokens)} tokens, {tokens.count('*')} of them *: "
            f"a subscription's pattern has at most {MAX_TOKENS}, and {MAX_WILDCARDS} of them *",
            code="invalid_topic",
            field=field,
            limit="pattern_size",
        )
    return pattern


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` covers the topic `name`."""
    return name[0] != PRIVATE and contains(pattern, name)


def is_pattern(text: str) -> bool:
    """Whether `text` is meant as a pattern: a topic name has neither * nor >."""
    return "*" in text or ">" in text


def contains(wide: str, narrow: str) -> bool:
    """Whether the pattern `wide` covers every topic that the pattern `narrow` covers."""
    wanted, tokens = wide.split("."), narrow.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted) or tokens[-1] == ">":
        return False
    return all((want == "*" and token != ">") or want == token for want, token in zip(wanted, tokens, strict=False))


def overlap(one: str, other: str) -> bool:
    """Whether any topic is covered by both patterns."""
    ours, theirs = one.split("."), other.split(".")
    for left, right in zip(ours, theirs, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(ours) == len(theirs)


def any_covers(patterns: Collection[str], name: str) -> bool:
    """Whether one of `patterns` covers `name`."""
    if name[0] == PRIVATE:
        return False
    if len(patterns) > _FEW:
        return any_contains(tuple(patterns), name)
    for pattern in patterns:  # noqa: SIM110 - a generator costs more than the common answers
        if pattern in (">", name) or covers(pattern, name):
            return True
    return False


def any_contains(patterns: tuple[str, ...], narrow: str) -> bool:
    """Whether one of `patterns` contains the pattern `narrow`; what that costs does not grow with their number.

    The same ones come again and again: a token may have a thousand.
    """
    return _reaches(_tree(patterns), narrow.split("."), 0)


@lru_cache(maxsize=32)
def _tree(patterns: tuple[str, ...]) -> _Tree:
    """Patterns by their tokens; an empty token marks the end of one."""
    root: _Tree = {}
    for pattern in patterns:
        node = root
        for token in pattern.split("."):
            node = node.setdefault(token, {})
        node[""] = {}
    return root


def _reaches(node: _Tree, tokens: list[str], at: int) -> bool:
    if at == len(tokens):
        return "" in node
    if ">" in node:
        return True
    token = tokens[at]
    if token == ">":
        return False
    return any(child in node and _reaches(node[child], tokens, at + 1) for child in dict.fromkeys((token, "*")))


def matcher(patterns: Iterable[str]) -> Callable[[str], object]:
    """A function that does for many names what `any_covers` does for one, at a fiftieth of its cost."""
    wanted = [
        r"\.".join("[^.]+" if token == "*" else ".+" if token == ">" else re.escape(token) for token in tokens)
        for tokens in (pattern.split(".") for pattern in patterns)
    ]
    return re.compile(f"(?!{PRIVATE})(?:{'|'.join(wanted)})", re.DOTALL).fullmatch
