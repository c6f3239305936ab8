"""What this node says to the others besides what its namespaces say: by subject, with or without an answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from partyline import log
from partyline.errors import PartylineError
from partyline.hub.cluster import Cluster
from partyline.hub.questions import Collected
from partyline.hub.timers import Timers
from partyline.interfaces import Bus
from partyline.metrics import Counters
from partyline.wire.cluster.messages import Ask, NodeMessage, Reply, Say

_log = log.get("cluster")

PATIENCE: Final = 2.0  # seconds that an answer may take
_INTRODUCTION: Final = 1.0  # seconds within which every node that is there has introduced itself
_MOST_GONE: Final = 1_000  # nodes that are known to be gone
_MOST_WORK: Final = 10_000  # questions of others in hand

Answers = Callable[[str, bytes], Awaitable[bytes | None]]
"""Called with the name of the node that asks, and what it asks."""
Hears = Callable[[str, bytes], None]


class Company:
    """The nodes that share a log with this one."""

    def __init__(self, bus: Bus, timers: Timers, counters: Counters) -> None:
        self.cluster = Cluster(bus, timers, counters, subject="company")
        self.cluster.changed = self._changed
        self.came: list[Callable[[str], None]] = []  # called with the name of a node that is new
        self.went: list[Callable[[str], None]] = []  # called with the name of a node that is gone
        self._counters = counters
        self._answers: dict[str, Answers] = {}
        self._hears: dict[str, Hears] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()  # those that were there
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def node(self) -> str:
        """The name of this one."""
        return self.cluster.node

    @property
    def others(self) -> list[str]:
        """The others, sorted."""
        return self.cluster.others

    async def start(self) -> None:
        """Introduce this node. Where nobody can be reached it goes on trying."""
        await self.cluster.start(self._heard)

    async def close(self) -> None:
        """Leave."""
        for task in tuple(self._working):
            task.cancel()
        await self.cluster.close()

    def answer(self, subject: str, answers: Answers) -> None:
        """Have `answers` answer what others ask about a subject."""
        self._answers[subject] = answers

    def hear(self, subject: str, hears: Hears) -> None:
        """Have `hears` hear what others say about a subject."""
        self._hears[subject] = hears

    def say(self, subject: str, data: bytes, to: str = "") -> None:
        """Say something to all others, or to one."""
        self.cluster.send(Say(subject, data), to)

    async def has(self, node: str) -> bool:
        """Whether a node is there. One that this node has never heard of may have just started, or have been before
        this one: it has a moment to introduce itself."""
        if node in self._gone or node in self.cluster.others:
            return node not in self._gone
        came = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(node, []).append(came)
        await asyncio.wait([came], timeout=_INTRODUCTION)
        if not came.done():
            waiting = self._awaited[node]
            waiting.remove(came)
            if not waiting:
                del self._awaited[node]
        return node in self.cluster.others

    async def ask(self, node: str, subject: str, data: bytes, patience: float = PATIENCE) -> bytes | None:
        """What one node answers; None if it has no answer, is gone, or is too slow."""
        return (await self._ask(subject, data, patience, node))[0].get(node)

    async def ask_all(self, subject: str, data: bytes = b"") -> tuple[dict[str, bytes], list[str]]:
        """What the other nodes answer, and those whose answer is missing."""
        return await self._ask(subject, data, PATIENCE, "")

    async def _ask(self, subject: str, data: bytes, patience: float, only: str) -> tuple[dict[str, bytes], list[str]]:
        answers = _Answers()
        number = self.cluster.ask(answers, subject, only)
        try:
            self.cluster.send(Ask(subject, number, data), only)
            await answers.wait(patience)
        finally:
            self.cluster.settle(number)
        return answers.given, sorted({*answers.expected.absent, *answers.silent})

    def _changed(self, node: str, there: bool) -> None:
        if there:
            self._gone.pop(node, None)
            for came in self._awaited.pop(node, ()):
                if not came.done():
                    came.set_result(None)
        else:
            self._gone[node] = None
            if len(self._gone) > _MOST_GONE:
                self._gone.popitem(last=False)
        for call in self.came if there else self.went:
            try:
                call(node)
            except Exception:
                _log.exception("what follows from a node's coming or going could not be done", node=node)

    def _heard(self, node: str, message: NodeMessage) -> None:
        match message:
            case Say():
                if (hears := self._hears.get(message.namespace)) is not None:
                    hears(node, message.data)
                else:
                    self._counters.unreadable += 1
            case Ask():
                if len(self._working) >= _MOST_WORK:
                    self._counters.hit("max_node_questions")
                    return
                task = asyncio.get_running_loop().create_task(self._reply(node, message))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
            case _:
                pass

    async def _reply(self, node: str, ask: Ask) -> None:
        answer: bytes | None = None
        answers = self._answers.get(ask.namespace)
        try:
            if answers is None:
                self._counters.unreadable += 1  # of a newer version
            else:
                answer = await answers(node, ask.data)
        except PartylineError as error:
            _log.warning("a question of another node is not answered", subject=ask.namespace, error=error.message)
        except Exception:
            _log.exception("a question of another node could not be answered", subject=ask.namespace)
        self.cluster.send(Reply(ask.namespace, ask.request, answer), node)


class _Answers(Collected):
    """The answers by node."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, bytes] = {}
        self.silent: list[str] = []  # those that have said that they have no answer

    def heard(self, node: str, message: NodeMessage) -> None:
        if isinstance(message, Reply) and self.expected.answered(node):
            if message.data is None:
                self.silent.append(node)
            else:
                self.given[node] = message.data
            self.look()
