"""Which of the patterns that somebody subscribed to cover a topic: a walk along its tokens, not a scan over all.

A pattern has few wildcards (`topics.check_subscription`), so the walk for a topic of n tokens takes 2^n steps at most
and never more than some thousands, whatever others have subscribed to.
"""

from __future__ import annotations

from typing import Final

_MOST_REMEMBERED: Final = 10_000


class _Node:
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.here: str | None = None  # the pattern that ends here
        self.rest: str | None = None  # the pattern that ends here with >


class Patterns:
    """A trie of patterns by token. What a topic matched is remembered until a pattern comes or goes."""

    __slots__ = ("_matched", "_patterns", "_root")

    def __init__(self) -> None:
        self._root = _Node()
        self._patterns: set[str] = set()
        self._matched: dict[str, tuple[str, ...]] = {}

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._patterns

    def __len__(self) -> int:
        return len(self._patterns)

    def add(self, pattern: str) -> None:
        """Add a pattern; one that is there stays."""
        if pattern in self._patterns:
            return
        self._patterns.add(pattern)
        self._matched.clear()
        *tokens, last = pattern.split(".")
        node = self._root
        for token in tokens:
            node = node.children.setdefault(token, _Node())
        if last == ">":
            node.rest = pattern
        else:
            node.children.setdefault(last, _Node()).here = pattern

    def remove(self, pattern: str) -> None:
        """Take a pattern out, with the branches that lead to it alone."""
        self._patterns.discard(pattern)
        self._matched.clear()
        tokens = pattern.split(".")
        _remove(self._root, tokens, 0)

    def matching(self, topic: str) -> tuple[str, ...]:
        """The patterns that cover `topic`."""
        if not self._patterns:
            return ()
        known = self._matched.get(topic)
        if known is None:
            found: list[str] = []
            _match(self._root, topic.split("."), 0, found)
            if len(self._matched) >= _MOST_REMEMBERED:
                self._matched.clear()
            known = self._matched[topic] = tuple(found)
        return known


def _match(node: _Node, tokens: list[str], at: int, found: list[str]) -> None:
    if at == len(tokens):
        if node.here is not None:
            found.append(node.here)
        return
    if node.rest is not None:
        found.append(node.rest)
    for token in (tokens[at], "*"):
        child = node.children.get(token)
        if child is not None:
            _match(child, tokens, at + 1, found)


def _remove(node: _Node, tokens: list[str], at: int) -> bool:
    """True if `node` leads nowhere any more."""
    name = tokens[at]
    if name == ">":
        node.rest = None
    elif (child := node.children.get(name)) is not None:
        if at + 1 == len(tokens):
            child.here = None
            empty = child.rest is None and not child.children
        else:
            empty = _remove(child, tokens, at + 1)
        if empty:
            del node.children[name]
    return node.here is None and node.rest is None and not node.children
