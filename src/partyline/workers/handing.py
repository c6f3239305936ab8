"""The lines between workers: requests that come to one and are answered by another.

What is answered without ASGI is also handed over without it: the exchange waits here, a second one answers there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from partyline import log
from partyline.errors import PartylineError
from partyline.metrics import Counters
from partyline.server.exchange import Direct, Exchange, Paths
from partyline.trust.perimeter import Peer
from partyline.wire import forwarding as wire
from partyline.wire.forwarding import decode, encode
from partyline.wire.http.head import Headers, path_text
from partyline.workers.line import Line

_log = log.get("workers")


class Asking:
    """The line on which we ask another worker. `lost` is called when it is gone."""

    def __init__(self, lost: Callable[[], object]) -> None:
        self.line = Line(self._received, self._lost)
        self._forget = lost
        self._number = 0
        self._asked: dict[int, Callable[[Any], None]] = {}

    def call(self, make: Callable[[int], object], then: Callable[[Any], None]) -> int:
        """Ask. `then` gets the answer, or None where the other one has gone; returns the question's number."""
        self._number += 1
        self._asked[self._number] = then
        self.line.send(encode(make(self._number)))
        return self._number

    def ask(self, make: Callable[[int], object]) -> tuple[int, asyncio.Future[Any]]:
        """`call` for a task."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return self.call(make, lambda said: None if answer.done() else answer.set_result(said)), answer

    def gone(self, number: int) -> None:
        """Nobody waits for this answer."""
        if self._asked.pop(number, None) is not None:
            self.line.send(encode(wire.Gone(number)))

    def _received(self, content: bytes) -> None:
        said = decode(content)
        if isinstance(said, wire.Answer | wire.Counts) and (then := self._asked.pop(said.number, None)) is not None:
            then(said)

    def _lost(self) -> None:
        self._forget()
        asked, self._asked = self._asked, {}
        for then in asked.values():
            then(None)


class Others(Protocol):
    """Leads to the other workers."""

    def line_now(self, owner: int) -> Asking | None:
        """The line to a worker, if there is one."""

    async def line(self, owner: int) -> Asking | None:
        """The line to a worker, made if necessary; None if that worker cannot be reached."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that ends by itself."""


class Handing:
    """A `server.exchange.Direct` for one request to `path`: worker `owner` answers what `of` would answer here."""

    __slots__ = ("_of", "_others", "_owner", "_path", "body_setting", "max_body")

    def __init__(self, others: Others, owner: int, path: bytes, of: Direct) -> None:
        self._others = others
        self._owner = owner
        self._path = path
        self._of = of
        self.max_body = of.max_body
        self.body_setting = of.body_setting

    def begin(self, exchange: Exchange) -> None:
        """Who may not ask here is refused before the body is read, as without workers."""
        self._of.begin(exchange)

    def respond(self, exchange: Exchange) -> None:
        exchange.direct = self._of  # the next request with this head may be for somebody else
        line = self._others.line_now(self._owner)
        if line is None:
            self._others.spawn(self._connect(exchange))
        else:
            self._ask(line, exchange)

    async def _connect(self, exchange: Exchange) -> None:
        line = await self._others.line(self._owner)
        if line is not None:
            self._ask(line, exchange)
        else:
            self._answer_here(exchange)

    def _ask(self, line: Asking, exchange: Exchange) -> None:
        if exchange.disconnected:
            return

        def then(answer: wire.Answer | None) -> None:
            if answer is None:
                self._answer_here(exchange)
            else:
                exchange.answer(answer.headers, answer.body, answer.status)

        number = line.call(lambda number: self._request(exchange, number), then)
        exchange.gone = lambda: line.gone(number)
        exchange.due = exchange.method != "GET"

    def _answer_here(self, exchange: Exchange) -> None:
        """The owner is gone, and its sessions with it: say so as for any that is not known."""
        exchange.gone, exchange.due = None, False
        exchange.respond()

    def _request(self, exchange: Exchange, number: int) -> wire.Request:
        peer = exchange.peer
        return wire.Request(
            number,
            exchange.method,
            path_text(self._path),
            self._path,
            exchange.query,
            exchange.headers,
            exchange.body,
            peer.address,
            peer.scheme,
            peer.host,
            peer.local,
        )


class Asked:
    """The line on which another worker asks us. `serve` answers what has to go by ASGI."""

    def __init__(
        self,
        direct: Paths,
        counters: Counters,
        counted: Callable[[int], wire.Counts],
        serve: Callable[[wire.Request, asyncio.Event], Awaitable[wire.Answer]],
    ) -> None:
        self.line = Line(self._received, self._lost)
        self.counters = counters
        self._direct = direct
        self._counted = counted
        self._serve = serve
        self._serving: dict[int, Callable[[], object]] = {}  # what to call when its client has gone
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, answer: wire.Answer) -> None:
        """Say the answer, if anybody waits for it."""
        if self._serving.pop(answer.number, None) is not None:
            self.line.send(encode(answer))

    def _received(self, content: bytes) -> None:
        said = decode(content)
        match said:
            case wire.Request():
                found = self._direct.find(said.method.encode(), said.raw_path)
                if found is None:
                    self._run(said)
                else:
                    self._exchange(said, *found)
            case wire.Gone():
                if (gone := self._serving.pop(said.number, None)) is not None:
                    gone()
            case wire.Count():
                self.line.send(encode(self._counted(said.number)))
            case _:
                pass  # nothing is asked on this line

    def _exchange(self, request: wire.Request, direct: Direct, parameter: str) -> None:
        peer = Peer(request.address, request.scheme, request.host, request.local)
        exchange = Exchange(
            _Answering(self, request.number), direct, request.method, parameter, request.query, request.headers, peer
        )
        self._serving[request.number] = exchange.lost
        try:
            direct.begin(exchange)
            exchange.check_head()
            if request.body:
                exchange.take(request.body)
        except PartylineError as error:
            exchange.refuse(error)
            return
        except Exception:
            exchange.fail()
            return
        exchange.respond()

    def _run(self, request: wire.Request) -> None:
        gone = asyncio.Event()
        self._serving[request.number] = gone.set
        task = asyncio.get_running_loop().create_task(self._answer(request, gone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: wire.Request, gone: asyncio.Event) -> None:
        try:
            answer = await self._serve(request, gone)
        except Exception:
            _log.exception("a request of another worker failed", method=request.method)
            answer = wire.Answer(request.number, 500, [], b"")
        self.answer(answer)

    def _lost(self) -> None:
        serving, self._serving = self._serving, {}
        for gone in serving.values():
            gone()


class _Answering:
    """The connection of an exchange that another worker has handed over (`server.exchange.Answering`)."""

    __slots__ = ("_line", "_number")

    def __init__(self, line: Asked, number: int) -> None:
        self._line = line
        self._number = number

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        self._line.answer(wire.Answer(self._number, status, headers, body))

    def count_refusal(self, error: PartylineError) -> None:
        self._line.counters.refuse(error)

    def count_failure(self) -> None:
        self._line.counters.errors += 1
