"""A worker's way to its keeper: one line for the log, the bus and the tables, made again whenever it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from partyline import log
from partyline.errors import StoreUnavailable
from partyline.interfaces import Fenced
from partyline.wire import keeper as wire
from partyline.wire.keeper import decode_keeper, encode
from partyline.workers.line import Line

_log = log.get("workers")

_FIRST_PAUSE: Final = 0.02  # seconds before connecting again, doubled each time
_LONGEST_PAUSE: Final = 0.5

_T = TypeVar("_T")


class Member:
    """One node's line. While it is down, questions fail at once."""

    def __init__(self, path: str, node: str) -> None:
        self.node = node
        self.heard: Callable[[str, bytes], None] = lambda subject, message: None
        self.changed: Callable[[str, str, bytes | None], None] = lambda table, key, value: None
        self.left: list[Callable[[str], None]] = []  # called with the name of a node that has gone
        self.up: list[Callable[[], None]] = []  # called whenever there is a line again, before anything else is sent
        self._path = path
        self._line: Line | None = None
        self._number = 0
        self._questions: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._running: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._tried = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a line."""
        return self._line is not None

    @property
    def unsent(self) -> int:
        """Bytes that the keeper has not read."""
        return 0 if self._line is None else self._line.unsent

    async def start(self) -> None:
        """Connect, and stay connected. Raises StoreUnavailable if there is no keeper now. Idempotent."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._keep())
            await self._tried.wait()
        if self._line is None:
            raise _unreachable()

    def tell(self, message: wire.Told) -> None:
        """Send something without an answer; it is lost while there is no line."""
        if self._line is not None:
            self._line.send(encode(message))

    async def ask(self, kind: Callable[..., wire.Asked], *values: Any, gives: type[_T]) -> _T:
        """The answer to a question. Raises StoreUnavailable, Fenced, or what the keeper answers."""
        if self._line is None:
            raise _unreachable()
        self._number += 1
        number = self._number
        content = encode(kind(number, *values))
        if len(content) > wire.MAX_FRAME:
            raise StoreUnavailable(f"{len(content)} bytes at once are more than the keeper takes ({wire.MAX_FRAME})")
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self._line.send(content)
        try:
            return msgspec.msgpack.decode(await answer, type=gives)
        finally:
            self._questions.pop(number, None)

    async def close(self) -> None:
        """Write what was sent, and disconnect."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._line is not None:
            self._line.close()
            await self._gone.wait()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        told = False
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, line = await loop.create_unix_connection(lambda: Line(self._received, self._lost), self._path)
            except OSError as error:
                if not told:
                    told = True
                    _log.warning("the keeper cannot be reached", error=error.strerror or str(error))
                self._tried.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause, told = _FIRST_PAUSE, False
            self._gone.clear()
            self._line = line
            self.tell(wire.Hello(self.node))
            for call in self.up:
                call()
            self._tried.set()
            await self._gone.wait()

    def _lost(self) -> None:
        self._line = None
        self._gone.set()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(_unreachable())
        self._questions.clear()

    def _received(self, content: bytes) -> None:
        said = decode_keeper(content)
        match said:
            case wire.Heard():
                self.heard(said.subject, said.message)
            case wire.Changed():
                self.changed(said.table, said.key, said.value)
            case wire.Left():
                for call in self.left:
                    call(said.node)
            case wire.Answer() | wire.Failed():
                answer = self._questions.get(said.number)
                if answer is None or answer.done():
                    return  # nobody waits any more
                if isinstance(said, wire.Answer):
                    answer.set_result(said.value)
                else:
                    answer.set_exception(Fenced() if said.failure is None else said.failure.error())


def _unreachable() -> StoreUnavailable:
    return StoreUnavailable("the process that keeps the log cannot be reached: try again in a moment")
