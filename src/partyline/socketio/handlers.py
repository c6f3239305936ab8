"""Handlers: which functions hear an event, and how a client's arguments are bound to their signatures.

Whether a function may run inline, and how each argument is decoded, is determined once, at registration.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any, Final, TypeVar, get_args

import msgspec

from partyline.errors import ConfigError, InvalidPacket, InvalidValue
from partyline.socketio.acks import Acknowledge
from partyline.wire.socketio.attachments import take_out
from partyline.wire.socketio.packets import RESERVED, Event, Whole, whole

Function = Callable[..., Any]
AnyFunction = TypeVar("AnyFunction", bound=Function)

_ANY: Final = (Any, object, inspect.Parameter.empty)
_BINARY: Final = (bytes, bytearray, memoryview)
# Opcodes of a coroutine that can yield to the loop.
_PAUSES: Final = frozenset(("GET_AWAITABLE", "GET_ANEXT", "BEFORE_ASYNC_WITH", "SEND", "YIELD_VALUE"))


class Handler:
    """One function that hears events. The first `leading` arguments are ours (the socket), the rest the client's.

    `inline` says that it needs no task: it is not a coroutine function, or it has no await. Raises ConfigError if an
    annotation is not one that a value can be checked against.
    """

    def __init__(
        self, function: Function, *, leading: int = 1, concurrent: bool = False, reads: Whole | None = None
    ) -> None:
        """`reads` reads an event for it, instead of what its annotations say."""
        self.function = function
        self.wrapped: Function | None = None  # the application's function, if `function` is our wrapper
        self.concurrent = concurrent
        self.coroutine = inspect.iscoroutinefunction(function)
        self.inline = not self.coroutine or not _pauses(function)
        parameters, self._rest, self._least, self.acknowledges = _parameters(function, leading)
        self._parameters = parameters
        self._most = len(parameters)
        if reads is None and self._rest is None and self._least == self._most:
            reads = _whole(parameters)
        self.whole = reads
        self._plain = all(parameter is None for parameter in parameters) and not isinstance(self._rest, _Type)

    def bind(self, event: Event) -> Sequence[Any]:
        """The client's arguments for a call. Raises InvalidValue, which names the argument, if one does not fit."""
        if event.wanted is not None and event.wanted is self.whole:
            return event.values[1:]
        raws = event.raws
        if raws is not None and not self._plain:
            given: Sequence[Any] = raws
            at = 1
        else:
            given, raws, at = event.arguments(), None, 0
        count = len(given) - at
        if count < self._least or (count > self._most and self._rest is None):
            raise InvalidValue(self._wrong_number(event.name, count), code="invalid_arguments")
        if self._plain:
            return given
        bound = []
        for number in range(count):
            kind = self._parameters[number] if number < self._most else self._rest
            value = given[number + at]
            try:
                if raws is None:
                    bound.append(value if not isinstance(kind, _Type) else kind.convert(value))
                else:
                    bound.append(_read_json(value) if not isinstance(kind, _Type) else kind.decode(value))
            except (ValueError, RecursionError) as error:  # msgspec's and pydantic's are ValueErrors
                name = kind.name if isinstance(kind, _Type) else str(number + 1)
                raise InvalidValue(
                    f"{event.name}: argument {number + 1} ({name}): {error}", code="invalid_arguments", field=name
                ) from None
        return bound

    def value(self, given: Any) -> tuple[Any, ...]:
        """One value for a handler that may also take none (what a client sent with CONNECT). Raises InvalidValue."""
        if not self._most and self._rest is None:
            return ()
        kind = self._parameters[0] if self._most else self._rest
        if not isinstance(kind, _Type):
            return (given,)
        try:
            return (kind.convert(given),)
        except (ValueError, RecursionError) as error:
            raise InvalidValue(f"auth: {error}", code="invalid_arguments", field="auth") from None

    async def step(self, *arguments: Any) -> Any:
        """Call it from code that is begun outside a task: a `sleep(0)` precedes any await, so that the caller can move
        the rest into a task there."""
        if not self.inline:
            await asyncio.sleep(0)
        result = self.function(*arguments)
        if not inspect.isawaitable(result):
            return result
        if not self.coroutine:
            await asyncio.sleep(0)
        return await result

    def _wrong_number(self, name: str, count: int) -> str:
        if self._rest is not None:
            wanted = f"{self._least} or more"
        elif self._least == self._most:
            wanted = str(self._most)
        else:
            wanted = f"{self._least} to {self._most}"
        return f"{name}: {count} arguments came, but it takes {wanted}"


class _Type:
    """What one parameter takes."""

    __slots__ = ("annotation", "convert", "decode", "name")

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self.annotation: Any = None  # as msgspec reads it from JSON; None where it does not
        self.decode: Callable[[msgspec.Raw], Any]
        self.convert: Callable[[Any], Any]
        if _of_pydantic(annotation):
            from pydantic import TypeAdapter  # a function annotated with its models has imported it

            adapter = TypeAdapter(annotation)
            self.decode = lambda raw: adapter.validate_json(bytes(raw))
            self.convert = adapter.validate_python
            return
        if annotation is msgspec.Raw:  # an argument as JSON, whatever the parser
            self.convert, self.decode, self.annotation = _as_json, lambda raw: raw, annotation
            return
        self.convert = lambda value: msgspec.convert(value, annotation, builtin_types=_BINARY)
        if annotation in _BINARY:  # from JSON it would take base64
            self.decode = lambda raw: self.convert(_read_json(raw))
        else:
            self.decode = msgspec.json.Decoder(annotation).decode
            self.annotation = annotation


_read_json = msgspec.json.Decoder().decode


def _as_json(value: Any) -> msgspec.Raw:
    if take_out((value,))[1]:
        raise ValueError("it is JSON, and cannot carry binary values")
    return msgspec.Raw(msgspec.json.encode(value))


def _of_pydantic(annotation: Any) -> bool:
    return hasattr(annotation, "__get_pydantic_core_schema__") or any(map(_of_pydantic, get_args(annotation)))


def _parameters(function: Function, leading: int) -> tuple[list[_Type | None], _Type | bool | None, int, bool]:
    """The types of the parameters, that of a starred one (None: there is none), how many are required, and whether
    the last one is for the acknowledgement."""
    where = getattr(function, "__qualname__", repr(function))
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ConfigError(
            f"the annotations of {where} cannot be read ({error}): define the types at the top of a module"
        ) from None
    kinds: list[_Type | None] = []
    rest: _Type | bool | None = None
    least = 0
    skip = leading
    acknowledges = False
    for parameter in signature.parameters.values():
        if acknowledges:
            raise ConfigError(f"{where}: an argument of type Acknowledge must be the last one")
        if parameter.annotation is Acknowledge:
            acknowledges = True
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise ConfigError(f"{where}: events do not name their arguments, and {parameter.name} needs a name")
            continue
        if skip and parameter.kind is not parameter.VAR_POSITIONAL:
            skip -= 1
            continue
        try:
            kind = None if parameter.annotation in _ANY else _Type(parameter.name, parameter.annotation)
        except TypeError as error:
            raise ConfigError(
                f"{where}: a value cannot be checked against the type of {parameter.name}: {error}"
            ) from None
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = kind or True
            skip = 0
        else:
            kinds.append(kind)
            least += parameter.default is parameter.empty
    if skip:
        raise ConfigError(f"{where} takes too few arguments: the socket comes first")
    return kinds, rest, least, acknowledges


def _whole(parameters: list[_Type | None]) -> Whole | None:
    """The reader for a whole event, if msgspec reads all of its arguments."""
    kinds = [Any if one is None else one.annotation for one in parameters]
    return None if None in kinds else whole(*kinds)


def _pauses(function: Function) -> bool:
    """Whether a coroutine function may await something."""
    code = getattr(inspect.unwrap(function, stop=lambda wrapper: hasattr(wrapper, "__code__")), "__code__", None)
    return not isinstance(code, CodeType) or any(step.opname in _PAUSES for step in dis.get_instructions(code))


def result_of(coroutine: Any) -> Any:
    """The result of a coroutine that never awaits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a coroutine without an await has awaited")


async def awaited(result: Awaitable[Any] | Any) -> Any:
    """The result of a handler that may be a coroutine's."""
    return await result if inspect.isawaitable(result) else result


@dataclass(slots=True)
class Handlers:
    """The handlers of a namespace. Namespaces of one pattern share theirs until one gets its own."""

    events: dict[str, tuple[Handler, ...]] = field(default_factory=dict)
    any: tuple[Handler, ...] = ()  # (socket, event, *arguments)
    connect: tuple[Handler, ...] = ()
    disconnecting: tuple[Function, ...] = ()
    disconnect: tuple[Function, ...] = ()
    middlewares: tuple[Handler, ...] = ()
    invalid: tuple[Function, ...] = ()  # (socket, event name, error)
    server_side: dict[str, tuple[Function, ...]] = field(default_factory=dict)

    def copy(self) -> Handlers:
        """A copy that can be changed independently."""
        return replace(self, events=dict(self.events), server_side=dict(self.server_side))

    def add(self, event: str, handler: Handler) -> None:
        self.events[check_event(event)] = (*self.events.get(event, ()), handler)

    def remove(self, event: str, function: Function | None) -> None:
        """Remove one function, or all; nothing happens if there is none."""
        left = tuple(one for one in self.events.get(event, ()) if function is not None and one.function is not function)
        if left:
            self.events[event] = left
        else:
            self.events.pop(event, None)


def check_event(event: str) -> str:
    """`event` itself if a client may send it. Raises ConfigError."""
    if event in RESERVED:
        instead = {"connect": "on_connect", "disconnect": "on_disconnect", "disconnecting": "on_disconnecting"}
        raise ConfigError(
            f"{event!r} is not an event of a client"
            + (f": use {instead[event]}" if event in instead else ", and no handler would ever hear it")
        )
    return event


def plain(function: Function, where: str) -> None:
    """Raises ConfigError for a coroutine function that nobody would await."""
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where} takes a plain function, and {function!r} would have to be awaited")


def problem(error: InvalidValue | InvalidPacket) -> dict[str, str]:
    """The acknowledgement for arguments that do not fit."""
    return {"error": "invalid_arguments", "message": error.message}
