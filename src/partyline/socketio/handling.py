"""Runs a socket's handlers one at a time, in the order of the events, and lets them end when the socket goes."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from partyline import log
from partyline.errors import CONTAINED, InvalidPacket, InvalidValue, PartylineError
from partyline.socketio.acks import Acknowledge
from partyline.socketio.handlers import Function, Handler, awaited, problem, result_of
from partyline.socketio.own_listeners import OwnListeners
from partyline.socketio.states import OVER, SocketState
from partyline.wire.socketio.packets import Event
from partyline.wire.socketio.values import frozen

if TYPE_CHECKING:
    from partyline.socketio.seams import Carrying

_log = log.get("socketio")

_INTERNAL: Final = {"error": "internal"}
# A handler may also await something that somebody else has cancelled.
_FAILURES: Final = (*CONTAINED, asyncio.CancelledError)


class Handling(OwnListeners):
    """Passes one socket's events to its handlers, and sends the acknowledgements."""

    __slots__ = ("_busy", "_connection", "_others", "_queue", "_state", "id")

    id: str
    _state: SocketState
    _connection: Carrying

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[tuple[Event, int]] | None = None  # waiting events; None: no handler runs
        self._busy: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] | None = None  # handlers that run beside all others

    # An event comes

    def _event(self, event: Event, size: int) -> None:
        """An event has come, of about `size` bytes."""
        if self._queue is None:
            self._begin(event, size)
        elif self._concurrent(event) and not self._connection.full:
            self._beside(event, size)
        else:
            self._queue.append((event, size))
            self._connection.waits(size)

    def _begin(self, event: Event, size: int) -> None:
        """Handle the next event: at once, or in a task that the others wait for."""
        handlers = self.namespace._handlers
        found = handlers.events.get(event.name)
        if self._listeners is None and not handlers.any and not self._incoming:
            if found is None:
                return
            handler = found[0]
            if handler.inline and len(found) == 1:
                self._call(handler, event)
                return
        if self._concurrent(event) and not self._connection.full:
            self._beside(event, size)
            return
        self._start(self._run(event))

    def _call(self, handler: Handler, event: Event) -> None:
        """The common case: one handler, without a task."""
        try:
            arguments = handler.bind(event)
        except CONTAINED as error:
            self._unfit(event, error)
            return
        try:
            if handler.acknowledges:
                arguments = (*arguments, self._acknowledge_of(event))
            result = handler.function(self, *arguments)
            if handler.coroutine:
                result = result_of(result)
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
            return
        if result is not None and inspect.isawaitable(result):
            self._start(self._finish(event, result, answers=not handler.acknowledges))
        else:
            if event.id is not None and not handler.acknowledges:
                self._acknowledge(event, result)
            if self.namespace.io._recovery is not None:
                self.namespace._handled(self)

    def _unfit(self, event: Event, error: BaseException) -> None:
        """Its arguments do not fit, or the application's own check has failed."""
        if isinstance(error, InvalidValue | InvalidPacket):
            self._invalid(event, error)
        else:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)

    async def _finish(self, event: Event, result: Any, *, answers: bool) -> None:
        try:
            answer = await result
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
        else:
            if answers:
                self._acknowledge(event, answer)
        self.namespace._handled(self)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._queue is None:
            self._queue = deque()
        self._busy = asyncio.get_running_loop().create_task(coroutine)
        self._busy.add_done_callback(self._next)

    def _next(self, task: asyncio.Task[None]) -> None:
        self._busy = None
        queue = self._queue
        assert queue is not None
        while queue and self._busy is None:
            event, size = queue.popleft()
            self._connection.waited(size)
            self._begin(event, size)
        if self._busy is None:
            self._queue = None

    def _concurrent(self, event: Event) -> bool:
        found = self.namespace._handlers.events.get(event.name)
        return found is not None and all(handler.concurrent for handler in found) and self._listeners is None

    def _beside(self, event: Event, size: int) -> None:
        """Run a concurrent handler. Its event counts as waiting until it is done, which bounds how many may run."""
        connection = self._connection
        connection.waits(size)
        others = self._others = set() if self._others is None else self._others
        task = asyncio.get_running_loop().create_task(self._run(event))
        others.add(task)
        task.add_done_callback(others.discard)
        task.add_done_callback(lambda _: connection.waited(size))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task that may outlive the socket."""
        self.namespace.io._keep(coroutine)

    async def _run(self, event: Event) -> None:
        """Run all handlers of an event in turn. The first value that is not None is the acknowledgement."""
        try:
            decoded: list[Any] = []
            if self._incoming or self.namespace._handlers.any:
                decoded = event.arguments()
            for middleware in self._incoming:
                await awaited(middleware(event.name, decoded))
        except (InvalidValue, InvalidPacket) as error:
            self._invalid(event, error)
            return
        except PartylineError as error:
            self._acknowledge(event, {"error": error.code, "message": error.message})
            return
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
            return
        answer: Any = None
        for handler in self.namespace._handlers.any:
            try:
                await awaited(handler.function(self, event.name, *decoded))
            except _FAILURES:
                self._failed(event.name, event)
                answer = _INTERNAL
        answers = False
        for handler, leading in self._hearing(event.name):
            answers = answers or not handler.acknowledges
            try:
                arguments = handler.bind(event)
            except CONTAINED as error:
                self._unfit(event, error)
                return
            if handler.acknowledges:
                arguments = (*arguments, self._acknowledge_of(event))
            try:
                result = await awaited(handler.function(*leading, *arguments))
            except _FAILURES:
                self._failed(event.name, event)
                result, answers = _INTERNAL, True
            if answer is None:
                answer = result
        if answers:
            self._acknowledge(event, answer)
        self.namespace._handled(self)

    def _hearing(self, name: str) -> list[tuple[Handler, tuple[Any, ...]]]:
        hearing: list[tuple[Handler, tuple[Any, ...]]] = [
            (handler, (self,)) for handler in self.namespace._handlers.events.get(name, ())
        ]
        if self._listeners is not None:
            hearing += [(handler, ()) for handler in self._listeners.get(name, ())]
        return hearing

    # Answers

    def _acknowledge_of(self, event: Event) -> Acknowledge:
        """The function for a handler that acknowledges by itself: we only tell the client if it fails."""

        def send(values: tuple[Any, ...]) -> None:
            home = self._connection.home
            if home.thread != get_ident() and home.call(send, tuple(frozen(values))):
                return
            number, event.id = event.id, None
            if number is not None and self._state not in OVER:
                self.namespace._in_turn(self, self._connection.parser.ack(self.namespace.name, number, values))

        return Acknowledge(send)

    def _acknowledge(self, event: Event, result: Any) -> None:
        if event.id is None or self._state in OVER:
            return
        values = () if result is None else result if type(result) is tuple else (result,)
        parser = self._connection.parser
        try:
            messages = parser.ack(self.namespace.name, event.id, values)
        except InvalidValue as error:
            _log.error(
                "a handler's return value cannot be sent", socket=self.id, event_name=event.name, error=error.message
            )
            messages = parser.ack(self.namespace.name, event.id, (_INTERNAL,))
        self.namespace._in_turn(self, messages)

    def _refused(self, event: Event, answer: dict[str, Any]) -> None:
        """An event was not handled, because of a limit."""
        self._acknowledge(event, answer)

    def _invalid(self, event: Event, error: InvalidValue | InvalidPacket) -> None:
        """The client's arguments do not fit: tell it and the `on_invalid` handlers; the connection stays."""
        self._connection.invalid(self, event, error)
        self._acknowledge(event, problem(error))

    def _failed(self, what: str, event: Event | None = None) -> None:
        """A handler raised. A CancelledError that is meant for this task is raised again: the application's, while the
        socket is connected (its event is answered first), or ours, once it has gone."""
        task, error = asyncio.current_task(), sys.exception()
        cancelled = task is not None and task.cancelling() and isinstance(error, asyncio.CancelledError)
        if not cancelled or self._state not in OVER:
            self._connection.failed()
            _log.exception("a handler failed", socket=self.id, event_name=what)
        if cancelled and error is not None:
            if event is not None:
                self._acknowledge(event, _INTERNAL)
            raise error

    # The socket goes

    async def _farewell(self, reason: str) -> None:
        """Run `on_disconnect` after the events that came before the end."""
        grace = self.namespace.io.disconnect_grace
        if not await self._quiet(grace):
            self._cancel()
            await self._quiet(grace)  # a handler that ignores this is left to itself
        self._end(reason)

    async def _quiet(self, seconds: float) -> bool:
        """Wait until no handler runs; False if one still does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while running := [task for task in (self._busy, *(self._others or ())) if task is not None]:
            if loop.time() >= until:
                return False
            await asyncio.wait(running, timeout=until - loop.time())
            await asyncio.sleep(0)  # let the next one begin
        return True

    def _cancel(self) -> None:
        """Cancel the handlers of a socket that has gone: their time is up."""
        if self._queue:
            self._forget_queue()
        for task in (self._busy, *(self._others or ())):
            if task is not None:
                task.cancel()

    def _forget_queue(self) -> None:
        while self._queue:
            _, size = self._queue.popleft()
            self._connection.waited(size)

    def _end(self, reason: str) -> None:
        for function in self.namespace._handlers.disconnect:
            result = self._try(function, reason)
            if inspect.isawaitable(result):
                self._spawn(self._awaited(result, "on_disconnect"))

    def _try(self, function: Function, *arguments: Any) -> Any:
        try:
            return function(self, *arguments)
        except CONTAINED:
            self._failed(getattr(function, "__qualname__", "handler"))

    async def _awaited(self, result: Any, what: str) -> None:
        try:
            await result
        except CONTAINED:
            self._failed(what)
