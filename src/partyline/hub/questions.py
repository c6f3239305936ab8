"""Questions to other nodes: the answers that have come, and the nodes that have yet to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from partyline.wire.cluster.messages import NodeMessage


class Expected:
    """The nodes that have yet to answer: by name, or only counted, perhaps later."""

    __slots__ = ("_answered", "_names", "_number")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._number: int | None = 0
        self._answered = 0

    def name(self, nodes: Iterable[str]) -> None:
        """These will answer."""
        self._names.update(nodes)

    def unknown(self) -> None:
        """Some will answer; `count` says later how many."""
        self._number = None

    def count(self, nodes: int) -> None:
        """There are so many. A later, lower count means that some have gone; no node is added in between."""
        self._number = nodes if self._number is None else min(self._number, nodes)

    def answered(self, node: str) -> bool:
        """One has answered; False if it had answered before, or is not one of those that are waited for."""
        if node in self._names:
            self._names.remove(node)
            return True
        self._answered += 1
        return self._number is None or self._answered <= self._number

    def lost(self, node: str) -> None:
        """One will not answer any more."""
        self._names.discard(node)

    @property
    def pending(self) -> bool:
        """Whether some have yet to answer."""
        return bool(self._names) or self._number is None or self._answered < self._number

    @property
    def absent(self) -> list[str]:
        """The nodes that have yet to answer, sorted; a ? for each that has no name."""
        unnamed = 1 if self._number is None else max(self._number - self._answered, 0)
        return [*sorted(self._names), *["?"] * unnamed]


class Question(Protocol):
    """A question that waits for answers from nodes."""

    expected: Expected

    def heard(self, node: str, message: NodeMessage) -> None:
        """One of them has answered."""

    def lost(self, node: str) -> None:
        """One of them is gone: it will not answer."""

    def look(self) -> None:
        """The expected nodes have changed: check whether it is done."""


class Collected:
    """A question with one answer from each node."""

    def __init__(self) -> None:
        self.answers: list[NodeMessage] = []
        self.expected = Expected()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def heard(self, node: str, message: NodeMessage) -> None:
        if self.expected.answered(node):
            self.answers.append(message)
            self.look()

    def lost(self, node: str) -> None:
        self.expected.lost(node)
        self.look()

    async def wait(self, seconds: float) -> None:
        """Return when all have answered, or when the time is up and some are still `expected`."""
        self.look()
        await asyncio.wait([self._done], timeout=seconds)

    def look(self) -> None:
        if not self.expected.pending and not self._done.done():
            self._done.set_result(None)
