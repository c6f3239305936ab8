"""Acknowledgements that we wait for: from one socket, or from everybody that a broadcast reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from partyline.errors import CallTimeout
from partyline.hub.questions import Expected

Answered = Callable[[list[Any]], object]


class Acknowledge:
    """The type of a handler's last parameter that is a function to acknowledge the event with.

    `acknowledge(*values)` may be called while the handler runs, or after it; a second call does nothing, and the
    handler's return value is not an acknowledgement then. If the client wants none, nothing is sent. Raises
    InvalidValue.
    """

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[tuple[Any, ...]], None] | None) -> None:
        self._send = send

    def __call__(self, *values: Any) -> None:
        send, self._send = self._send, None
        if send is not None:
            send(values)


def one(arguments: list[Any]) -> Any:
    """An acknowledgement as a value: its only argument, otherwise a tuple of all, `()` if there are none."""
    return arguments[0] if len(arguments) == 1 else tuple(arguments)


class Gathering:
    """The answers to a broadcast. Done when everybody on all expected nodes has answered or gone.

    `told_answer` and `told_gone` hear of each as it comes, if another node gathers.
    """

    __slots__ = ("_done", "_many", "_told_answer", "_told_gone", "answers", "expected", "missing", "waiting")

    def __init__(
        self,
        told_answer: Callable[[str, list[Any]], None] | None = None,
        told_gone: Callable[[str], None] | None = None,
    ) -> None:
        self.waiting: dict[str, str] = {}  # sockets, and their nodes
        self.answers: list[Any] = []
        self.missing: list[str] = []  # sockets that went away
        self.expected = Expected()  # nodes that have not said yet whom they reached
        self._many = 0  # sockets without names that have yet to answer
        self._told_answer = told_answer
        self._told_gone = told_gone
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reached(self, node: str, sockets: Iterable[str], many: int = 0) -> None:
        """These sockets of a node are asked, and `many` more whose names it does not say."""
        self.waiting.update(dict.fromkeys(sockets, node))
        self._many += many
        self.look()

    def answered_by_one(self, arguments: list[Any]) -> None:
        """One of the sockets without names has answered."""
        self._many -= 1
        self.answers.append(one(arguments))
        self.look()

    def answered(self, socket: str, arguments: list[Any]) -> None:
        """A socket has answered; only its first answer counts."""
        if self.waiting.pop(socket, None) is not None:
            self.answers.append(one(arguments))
            if self._told_answer is not None:
                self._told_answer(socket, arguments)
            self.look()

    def gone(self, socket: str) -> None:
        """A socket will not answer any more."""
        if self.waiting.pop(socket, None) is not None:
            self.missing.append(socket)
            if self._told_gone is not None:
                self._told_gone(socket)
            self.look()

    def lost(self, node: str) -> None:
        """A node will not answer any more."""
        self.expected.lost(node)
        for socket in [socket for socket, where in self.waiting.items() if where == node]:
            self.gone(socket)
        self.look()

    async def wait(self, seconds: float) -> None:
        """Return when everybody has answered or gone, or the time is up."""
        await asyncio.wait([self._done], timeout=seconds)

    def look(self) -> None:
        """Check whether it is done."""
        if not (self.waiting or self._many > 0 or self.expected.pending or self._done.done()):
            self._done.set_result(None)

    @property
    def absent(self) -> list[str]:
        """All that have not answered: sockets, and nodes that have not said whom they asked; a ? for each without a
        name."""
        return [*self.missing, *self.waiting, *["?"] * max(self._many, 0), *self.expected.absent]


def outcome(answers: list[Any], missing: Iterable[str], seconds: float) -> list[Any]:
    """The answers, if nobody is missing. Raises CallTimeout."""
    absent = tuple(missing)
    if absent:
        raise CallTimeout(
            f"{len(absent)} of {len(absent) + len(answers)} did not answer within {seconds:g} s",
            answers=tuple(answers),
            missing=absent,
        )
    return answers
