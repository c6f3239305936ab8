"""An application's listeners for one socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from partyline.socketio.handlers import Function, Handler, check_event

if TYPE_CHECKING:
    from partyline.socketio.seams import Hearing


class OwnListeners:
    """One socket's own listeners and middlewares."""

    __slots__ = ("_incoming", "_listeners", "_outgoing", "namespace")

    namespace: Hearing

    def __init__(self) -> None:
        self._listeners: dict[str, tuple[Handler, ...]] | None = None
        self._incoming: tuple[Function, ...] = ()  # middlewares
        self._outgoing: tuple[Function, ...] = ()

    def on(self, event: str, function: Function | None = None, *, concurrent: bool = False) -> Any:
        """Hear an event of this socket: `function(*arguments)`, without the socket. Usable as a decorator."""

        def add(function: Function) -> Function:
            listeners = self._listeners = {} if self._listeners is None else self._listeners
            handler = Handler(function, leading=0, concurrent=concurrent)
            listeners[check_event(event)] = (*listeners.get(event, ()), handler)
            return function

        return add if function is None else add(function)

    def once(self, event: str, function: Function) -> None:
        """Hear the next one of these events."""
        handler = Handler(function, leading=0)

        def only(*arguments: Any) -> Any:
            self._forget(event, lambda one: one is handler)
            return function(*arguments)

        handler.function, handler.wrapped = only, function
        listeners = self._listeners = {} if self._listeners is None else self._listeners
        listeners[check_event(event)] = (*listeners.get(event, ()), handler)

    def off(self, event: str | None = None, function: Function | None = None) -> None:
        """Remove one listener of this socket, all of one event, or all."""
        if event is None:
            self._listeners = None
        else:
            self._forget(event, lambda one: function is None or function in (one.function, one.wrapped))

    def _forget(self, event: str, which: Callable[[Handler], bool]) -> None:
        if self._listeners is None:
            return
        left = tuple(one for one in self._listeners.get(event, ()) if not which(one))
        if left:
            self._listeners[event] = left
        else:
            self._listeners.pop(event, None)
            self._listeners = self._listeners or None

    def use(self, middleware: Function) -> Function:
        """`middleware(event, arguments)` is called before every event's handlers; if it raises, they do not run."""
        self._incoming = (*self._incoming, middleware)
        return middleware

    def on_any_outgoing(self, function: Function) -> Function:
        """`function(event, *arguments)` is called for every event that is sent to this socket."""
        self._outgoing = (*self._outgoing, function)
        self.namespace._watched.add(self)
        return function

    def off_any_outgoing(self, function: Function | None = None) -> None:
        """Remove one such function, or all."""
        self._outgoing = tuple(one for one in self._outgoing if function is not None and one is not function)
        if not self._outgoing:
            self.namespace._watched.discard(self)
