"""Acknowledgements that we wait for: of one socket, or of everybody that a broadcast reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from partyline.errors import CallTimeout

Answered = Callable[[list[Any]], object]


def one(arguments: list[Any]) -> Any:
    """An acknowledgement as a value: nothing, its only argument, or a list of several."""
    if len(arguments) == 1:
        return arguments[0]
    return arguments or None


class Gathering:
    """The answers to a broadcast. Done when everybody has answered or gone."""

    __slots__ = ("_done", "answers", "missing", "waiting")

    def __init__(self, waiting: Iterable[str]) -> None:
        self.waiting = dict.fromkeys(waiting)
        self.answers: list[Any] = []
        self.missing: list[str] = []  # who went away
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._look()

    def answered(self, socket: str, arguments: list[Any]) -> None:
        """A second answer of one socket counts for nothing."""
        if socket in self.waiting:
            del self.waiting[socket]
            self.answers.append(one(arguments))
            self._look()

    def gone(self, socket: str) -> None:
        if socket in self.waiting:
            del self.waiting[socket]
            self.missing.append(socket)
            self._look()

    async def wait(self, seconds: float) -> None:
        """Return when nobody is waited for, or the time is over."""
        await asyncio.wait([self._done], timeout=seconds)

    def _look(self) -> None:
        if not self.waiting and not self._done.done():
            self._done.set_result(None)


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
