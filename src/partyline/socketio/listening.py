"""How an application registers the handlers of a namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from partyline.socketio.handlers import AnyFunction, Function, Handler, Handlers, plain


class Listening:
    """The handlers of a namespace, or of a pattern of namespaces."""

    __slots__ = ()

    @overload
    def on(self, event: str, *, concurrent: bool = False) -> Callable[[AnyFunction], AnyFunction]: ...

    @overload
    def on(self, event: str, function: AnyFunction, *, concurrent: bool = False) -> AnyFunction: ...

    def on(self, event: str, function: Function | None = None, *, concurrent: bool = False) -> Any:
        """Hear an event: `function(socket, *arguments)`, `def` or `async def`. Usable as a decorator.

        The client's arguments are checked against the annotations (types that msgspec knows, pydantic's models); those
        that do not fit never reach it. Its return value is the acknowledgement, a tuple means several values. One
        socket's handlers run one at a time unless they are `concurrent`. Raises ConfigError.
        """

        def add(function: Function) -> Function:
            self._own().add(event, Handler(function, concurrent=concurrent))
            return function

        return add if function is None else add(function)

    def off(self, event: str, function: Function | None = None) -> None:
        """Remove one function of an event, or all."""
        self._own().remove(event, function)

    def on_any(self, function: AnyFunction) -> AnyFunction:
        """`function(socket, event, *arguments)` hears every event, before the event's own handlers."""
        own = self._own()
        own.any = (*own.any, Handler(function, leading=1))
        return function

    def off_any(self, function: Function | None = None) -> None:
        """Remove one such function, or all."""
        own = self._own()
        own.any = tuple(one for one in own.any if function is not None and one.function is not function)

    def on_connect(self, function: AnyFunction) -> AnyFunction:
        """`function(socket)` or `function(socket, auth)` is called before a client's CONNECT is answered.

        Raise ConnectionRefused in it to refuse the client. Events that it emits arrive after the answer.
        """
        own = self._own()
        own.connect = (*own.connect, Handler(function))
        return function

    def on_disconnect(self, function: AnyFunction) -> AnyFunction:
        """`function(socket, reason)` is called once for each socket that was let in, or left while `on_connect` ran; it
        is in no room by then."""
        own = self._own()
        own.disconnect = (*own.disconnect, function)
        return function

    def on_disconnecting(self, function: AnyFunction) -> AnyFunction:
        """`function(socket, reason)`, a plain function, is called while the socket is still in its rooms. Raises
        ConfigError for a coroutine function."""
        plain(function, "on_disconnecting")
        own = self._own()
        own.disconnecting = (*own.disconnecting, function)
        return function

    def on_invalid(self, function: AnyFunction) -> AnyFunction:
        """`function(socket, event, error)`, a plain function, hears of arguments that fitted no handler. Raises
        ConfigError for a coroutine function."""
        plain(function, "on_invalid")
        own = self._own()
        own.invalid = (*own.invalid, function)
        return function

    def use(self, middleware: AnyFunction) -> AnyFunction:
        """`middleware(socket)` is called before `on_connect`, in the order of these calls; raise to refuse."""
        own = self._own()
        own.middlewares = (*own.middlewares, Handler(middleware))
        return middleware

    def _own(self) -> Handlers:
        """Its own handlers, which may be changed without affecting another namespace."""
        raise NotImplementedError
