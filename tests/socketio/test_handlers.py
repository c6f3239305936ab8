"""Handlers: the order in which they run, what they get, and what their clients are told."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, TypedDict

import anyio
import msgspec
import pydantic
import pytest

from partyline import ConfigError
from partyline.errors import InvalidPacket, InvalidValue
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually

from .clients import Notes, entered, looped, only, polled, served, serving

# Order


@looped
async def test_one_at_a_time() -> None:
    """One socket's handlers run one at a time, in order of arrival, whatever each of them awaits."""
    io = SocketIO()
    notes = Notes()

    @io.on("slow")
    async def slow(socket: Socket, n: int) -> None:
        notes.append(("begin", n))
        for _ in range(10 - n):
            await asyncio.sleep(0)
        notes.append(("end", n))

    io.on("fast", lambda socket, n: notes.append(("fast", n)))

    @io.on("plain")
    async def plain(socket: Socket, n: int) -> None:
        notes.append(("plain", n))

    async with served(io) as url, entered(url) as client:
        await client.say('2["slow",1]', '2["fast",2]', '2["slow",3]', '2["plain",4]', '2["slow",5]')
        await notes.sync(8)
        assert notes == [
            ("begin", 1),
            ("end", 1),
            ("fast", 2),
            ("begin", 3),
            ("end", 3),
            ("plain", 4),
            ("begin", 5),
            ("end", 5),
        ]


@looped
async def test_what_waits_stays_as_it_came() -> None:
    """An event that a handler hears at once is read as values; one that waits is kept as JSON until its turn comes."""
    io = SocketIO()
    heard: list[Any] = []
    go = asyncio.Event()

    @io.on("one")
    async def one(socket: Socket, values: list[int]) -> None:
        heard.append(values)
        await go.wait()

    async with served(io) as url, entered(url) as client:
        await client.say('2["one",[1]]', '2["one",[2]]')
        await eventually(lambda: only(io)._queue, "one waits")
        waits = only(io)._queue
        assert waits is not None
        (event, _) = waits[0]
        assert (event.values, [bytes(raw) for raw in event.raws or ()]) == ((), [b'"one"', b"[2]"])
        go.set()
        await eventually(lambda: len(heard) == 2, "both are heard")
        assert heard == [[1], [2]]


@looped
async def test_sockets_do_not_wait_for_each_other() -> None:
    """A handler that hangs holds up only its own socket, not other clients or its client's other namespaces."""
    io = SocketIO(disconnect_grace=0)
    other = io.namespace("/other")
    never = asyncio.Event()
    for namespace in (io, other):
        namespace.on("hang", lambda socket: never.wait())
        namespace.on("echo", lambda socket, value: value)
    async with served(io) as url, entered(url) as client, entered(url) as another:
        await client.enter("/other")
        await client.say('2["hang"]', '20["echo",1]', '2/other,1["echo",2]')
        assert await client.next() == "3/other,1[2]"
        assert await another.ask("echo", 3) == [3]


@looped
async def test_concurrent() -> None:
    """A concurrent handler runs beside all others, earlier and later ones."""
    io = SocketIO()
    first, second = asyncio.Event(), asyncio.Event()

    @io.on("first")
    async def wait_for_second(socket: Socket) -> str:
        await second.wait()
        return "first"

    @io.on("second", concurrent=True)
    async def wait_for_third(socket: Socket) -> str:
        second.set()
        await first.wait()
        return "second"

    @io.on("third", concurrent=True)
    async def third(socket: Socket) -> str:
        first.set()
        return "third"

    async with served(io) as url, entered(url) as client:
        await client.say('20["first"]', '21["second"]', '22["third"]')
        assert sorted(str(packet) for packet in await client.take(3)) == ['30["first"]', '31["second"]', '32["third"]']


@looped
async def test_concurrent_handlers_are_bounded() -> None:
    """Running concurrent handlers count as waiting events, so a client cannot start any number of them."""
    io = SocketIO(max_pending_events=4, disconnect_grace=0)
    notes, go = Notes(), asyncio.Event()

    @io.on("x", concurrent=True)
    async def x(socket: Socket) -> None:
        notes.append("x")
        await go.wait()

    async with serving(io) as (partyline, url), entered(url) as client:
        for _ in range(4):
            await client.say('2["x"]')
        await notes.sync(4)
        await eventually(lambda: partyline.counters.limits == {"max_pending_events": 1}, "reading stops")
        await client.say('2["x"]')
        go.set()
        await notes.sync(5)
        (connection,) = io.connections
        await eventually(lambda: (connection._waiting, connection._waiting_bytes) == (0, 0), "nothing waits")


@looped
async def test_acknowledgements_overtake() -> None:
    """A handler may await its own client: the answer overtakes the events that wait after it."""
    io = SocketIO()

    @io.on("ask")
    async def ask(socket: Socket) -> Any:
        return await socket.call("question", 1)

    io.on("next", lambda socket: "next")
    async with served(io) as url, entered(url) as client:
        await client.say('20["ask"]')
        assert await client.next() == '21["question",1]'
        await client.say('21["next"]', "31[42]")
        assert await client.take(2) == ["30[42]", '31["next"]']


# Inline and in a task


def loop_turns(io: SocketIO) -> Callable[[], bool]:
    """Whether a handler has run in the turn of the loop in which its event arrived, and so without a task."""
    seen: list[bool] = []

    def note() -> None:
        seen.append(asyncio.current_task() is None)

    async def without_await(socket: Socket) -> None:
        note()

    async def with_await(socket: Socket) -> None:
        note()
        await asyncio.sleep(0)

    io.on("def", lambda socket: note())
    io.on("without", without_await)
    io.on("with", with_await)
    return lambda: seen.pop()


@looped
async def test_inline_or_a_task() -> None:
    """A def, and an async def that does not await, run at once in the turn of the read; one that awaits becomes a
    task."""
    io = SocketIO()
    inline = loop_turns(io)
    async with served(io) as url, entered(url) as client:
        assert await client.ask("def") == []
        assert inline()
        assert await client.ask("without") == []
        assert inline()
        assert await client.ask("with") == []
        assert not inline()


class _Callable:
    async def __call__(self, socket: Socket, value: Any) -> Any:
        async with asyncio.timeout(20):
            await asyncio.sleep(0)
        return value


async def _partial(prefix: str, socket: Socket, value: Any) -> Any:
    await asyncio.sleep(0)
    return prefix + value


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@_wrapped
async def _decorated(socket: Socket, value: str) -> str:
    await asyncio.sleep(0)
    return value


class _Application:
    async def handle(self, socket: Socket, value: str) -> str:
        await asyncio.sleep(0)
        return value


FUNCTIONS = [
    _Callable(),
    functools.partial(_partial, ""),
    _decorated,
    _Application().handle,
    lambda socket, value: value,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=["callable", "partial", "decorated", "method", "lambda"])
@looped
async def test_whatever_can_be_called(function: Any) -> None:
    """Objects, partial functions, decorated functions and methods are handlers like any other."""
    io = SocketIO()
    io.on("x", function)
    async with served(io) as url, entered(url) as client:
        assert await client.ask("x", "value") == ["value"]


async def _timeout(socket: Socket) -> str:
    try:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
    except TimeoutError:
        return "in time"
    return "?"


async def _task_group(socket: Socket) -> list[int]:
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(3)]
    return [task.result() for task in tasks]


async def _anyio(socket: Socket) -> str:
    with anyio.move_on_after(0.001) as scope:
        await anyio.sleep_forever()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    return "cancelled" if scope.cancelled_caught else "?"


async def _connection(socket: Socket) -> str:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"PING\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
    return line.decode().strip()


async def _thread(socket: Socket) -> int:
    return await asyncio.to_thread(lambda: 7)


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (_timeout, "in time"),
        (_task_group, [0, 1, 2]),
        (_anyio, "cancelled"),
        (_connection, "PING"),
        (_thread, 7),
    ],
    ids=["timeout", "task group", "anyio", "connection", "thread"],
)
@looped
async def test_what_needs_a_task(handler: Any, answer: Any, concurrent: bool) -> None:
    """asyncio.timeout, TaskGroup, anyio, streams and threads work in handlers, as in any task."""
    io = SocketIO()
    io.on("x", handler, concurrent=concurrent)
    async with served(io) as url, entered(url) as client:
        assert await client.ask("x") == [answer]


# Arguments


class Move(msgspec.Struct):
    x: int
    y: int = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    text: str


@dataclass
class Point:
    x: int
    y: int


class Message(TypedDict):
    text: str


class Model(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)


class Odd(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        raise KeyError("our own mistake")


def _move(socket: Socket, move: Move) -> Any:
    return [type(move).__name__, move.x, move.y]


def _point(socket: Socket, point: Point) -> Any:
    return [type(point).__name__, point.x, point.y]


def _message(socket: Socket, message: Message) -> Any:
    return message


def _model(socket: Socket, model: Model) -> Any:
    return [type(model).__name__, model.name, model.age]


def _models(socket: Socket, models: list[Model]) -> Any:
    return [model.name for model in models]


def _optional(socket: Socket, text: Optional[str], n: int | None = None) -> Any:  # noqa: UP045 - both forms
    return [text, n]


def _default(socket: Socket, text: str, n: int = 5) -> Any:
    return [text, n]


def _rest(socket: Socket, first: str, *rest: int) -> Any:
    return [first, *rest]


def _any(socket: Socket, *rest: Any) -> Any:
    return list(rest)


def _untyped(socket, one, two):  # type: ignore[no-untyped-def]
    return [one, two]


def _union(socket: Socket, value: int | str) -> Any:
    return value


def _floats(socket: Socket, value: float) -> Any:
    return value


def _named(socket: Socket, value: int, *, option: bool = False, **more: Any) -> Any:
    return value


async def _coroutine(socket: Socket, move: Move) -> Any:
    await asyncio.sleep(0)
    return move.x


FITTING = [
    (_move, ['{"x":1,"y":2}'], ["Move", 1, 2]),
    (_move, ['{"x":1,"more":true}'], ["Move", 1, 0]),
    (_point, ['{"x":1,"y":2}'], ["Point", 1, 2]),
    (_message, ['{"text":"é"}'], {"text": "é"}),
    (_model, ['{"name":"n","age":1}'], ["Model", "n", 1]),
    (_models, ['[{"name":"n","age":1}]'], ["n"]),
    (_optional, ["null"], [None, None]),
    (_optional, ['"x"', "1"], ["x", 1]),
    (_default, ['"x"'], ["x", 5]),
    (_default, ['"x"', "1"], ["x", 1]),
    (_rest, ['"x"'], ["x"]),
    (_rest, ['"x"', "1", "2"], ["x", 1, 2]),
    (_any, [], []),
    (_any, ["1", "null", "[{}]"], [1, None, [{}]]),
    (_untyped, ["1", '"x"'], [1, "x"]),
    (_union, ["1"], 1),
    (_union, ['"x"'], "x"),
    (_floats, ["1"], 1),
    (_named, ["1"], 1),
    (_coroutine, ['{"x":7}'], 7),
]


def label(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize(("handler", "arguments", "answer"), FITTING, ids=label)
@looped
async def test_arguments_that_fit(handler: Any, arguments: list[str], answer: Any) -> None:
    """Arguments are decoded into the types of the handler's annotations: Structs, dataclasses, TypedDicts, pydantic."""
    io = SocketIO()
    io.on("x", handler)
    async with served(io) as url, entered(url) as client:
        await client.say(f'20["x"{"".join("," + argument for argument in arguments)}]')
        packet = await client.next()
        assert isinstance(packet, str)
        assert json.loads(packet[2:]) == [answer]


UNFIT = [
    (_move, ['{"x":"1"}'], "Expected `int`, got `str` - at `$.x`"),
    (_move, ["{}"], "missing required field `x`"),
    (_move, [], "0 arguments came, but it takes 1"),
    (_move, ['{"x":1}', "2"], "2 arguments came, but it takes 1"),
    (_point, ["[1,2]"], "Expected `object`"),
    (_message, ["{}"], "missing required field `text`"),
    (_model, ['{"name":"n","age":-1}'], "greater than or equal to 0"),
    (_models, ["[1]"], "Model"),
    (_optional, ["1"], "argument 1 (text)"),
    (_default, ['"x"', '"y"'], "argument 2 (n)"),
    (_default, ['"x"', "1", "2"], "3 arguments came, but it takes 1 to 2"),
    (_rest, [], "0 arguments came, but it takes 1 or more"),
    (_rest, ['"x"', "1", '"y"'], "argument 3"),
    (_untyped, ["1"], "1 arguments came, but it takes 2"),
    (_union, ["[]"], "Expected `int | str`"),
    (_coroutine, ["1"], "Expected `object`"),
]


@pytest.mark.parametrize(("handler", "arguments", "message"), UNFIT, ids=label)
@looped
async def test_arguments_that_do_not_fit(handler: Any, arguments: list[str], message: str) -> None:
    """If arguments do not fit, the acknowledgement is an error object, on_invalid is called, the handler does not run,
    it is counted, and the connection stays."""
    io = SocketIO()
    notes = Notes()

    @functools.wraps(handler)
    def spy(*arguments: Any) -> Any:
        notes.append("ran")
        return handler(*arguments)

    io.on("x", spy)
    io.on_invalid(lambda socket, event, error: notes.append((socket, event, error)))
    async with serving(io) as (partyline, url), entered(url) as client:
        rest = "".join("," + argument for argument in arguments)
        await client.say(f'2["x"{rest}]', f'20["x"{rest}]')
        packet = await client.next()
        assert isinstance(packet, str)
        (answer,) = json.loads(packet[2:])
        assert set(answer) == {"error", "message"}
        assert answer["error"] == "invalid_arguments"
        assert message in answer["message"]
        assert [(socket, event, type(error)) for socket, event, error in notes] == [(only(io), "x", InvalidValue)] * 2
        assert partyline.counters.limits == {"invalid_arguments": 2}
        await client.sync()


@looped
async def test_binary_arguments() -> None:
    """bytes take attachments and nothing else; Structs may hold them; without annotations attachments are bytes,
    too."""
    io = SocketIO()

    class Upload(msgspec.Struct):
        name: str
        data: bytes

    def upload(socket: Socket, upload: Upload) -> Any:
        return [upload.name, upload.data]

    io.on("bytes", _bytes)
    io._handlers.add("struct", _handler(upload, Upload))
    io.on("any", lambda socket, value: value)
    hole = '{"_placeholder":true,"num":0}'
    async with served(io) as url, entered(url) as client:
        await client.say(f'51-0["bytes",{hole}]', b"\x00\xff")
        assert await client.take(2) == [f"61-0[{hole}]", b"\x00\xff"]
        await client.say(f'51-1["struct",{{"name":"n","data":{hole}}}]', b"\x01")
        assert await client.take(2) == [f'61-1[["n",{hole}]]', b"\x01"]
        await client.say(f'51-2["any",[{{"deep":{hole}}}]]', b"\x02")
        assert await client.take(2) == [f'61-2[[{{"deep":{hole}}}]]', b"\x02"]
        (answer,) = await client.ask("bytes", "AAE=", number=3)
        assert answer["error"] == "invalid_arguments"


def _bytes(socket: Socket, data: bytes) -> bytes:
    assert type(data) is bytes
    return data


def _handler(function: Any, kind: Any) -> Any:
    from partyline.socketio.handlers import Handler

    function.__annotations__ = {"socket": Socket, "upload": kind}
    return Handler(function)


@looped
async def test_a_check_of_the_applications_own_fails() -> None:
    """A check that raises its own exception is handled like a handler's error, and does not hold anything up."""
    io = SocketIO()
    release = asyncio.Event()

    @io.on("odd")
    def odd(socket: Socket, value: Odd) -> None:
        raise AssertionError

    io.on("wait", lambda socket: release.wait())
    io.on("echo", lambda socket, value: value)
    async with serving(io) as (partyline, url), entered(url) as client:
        assert await client.ask("odd", {"x": 1}) == [{"error": "internal"}]
        await client.say('2["wait"]', '21["odd",{"x":1}]', '22["echo",1]')
        release.set()
        assert await client.take(2) == ['31[{"error":"internal"}]', "32[1]"]
        assert partyline.counters.errors == 2


@looped
async def test_a_value_that_is_none() -> None:
    """JSON that no Python value can hold does not close the connection: the acknowledgement says that it does not
    fit."""
    io = SocketIO()
    notes = Notes()
    io.on("x", lambda socket, value: notes.append(value))
    io.on_invalid(lambda socket, event, error: notes.append(type(error)))
    async with served(io) as url, entered(url) as client:
        await client.say('20["x",1e999]')
        packet = await client.next()
        assert isinstance(packet, str)
        assert json.loads(packet[2:])[0]["error"] == "invalid_arguments"
        assert notes == [InvalidPacket]


def _no_socket() -> None: ...


def _keyword(socket: Socket, *, needed: int) -> None: ...


def _nothing(socket: Socket, value: 3) -> None: ...  # type: ignore[valid-type]


def _unknown(socket: Socket, value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_no_socket, "the socket comes first"),
        (_keyword, "needed"),
        (_nothing, "value"),
        (_unknown, "top of a module"),
    ],
    ids=label,
)
def test_functions_that_cannot_be_handlers(function: Any, words: str) -> None:
    """A function to which no event could be bound is refused when it is registered, and the error names it."""
    with pytest.raises(ConfigError, match=words) as caught:
        SocketIO().on("x", function)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize("name", ["connect", "connect_error", "disconnect", "disconnecting", "newListener"])
def test_events_that_cannot_come(name: str) -> None:
    """A handler for a reserved event is refused, and the error says what to use instead."""
    with pytest.raises(ConfigError, match=f"on_{name}" if name in ("connect", "disconnect", "disconnecting") else name):
        SocketIO().on(name, lambda socket: None)


@pytest.mark.parametrize("name", ["on_disconnecting", "on_invalid"])
def test_plain_functions(name: str) -> None:
    """A coroutine function is refused if nobody would await it."""

    async def function(*arguments: Any) -> None: ...

    with pytest.raises(ConfigError, match=name):
        getattr(SocketIO(), name)(function)


# Answers

RETURNED: list[tuple[Any, list[Any]]] = [
    (None, ["30[]"]),
    (1, ["30[1]"]),
    (False, ["30[false]"]),
    ("", ['30[""]']),
    ((), ["30[]"]),
    ((1, "x"), ['30[1,"x"]']),
    ((None,), ["30[null]"]),
    ([1, "x"], ['30[[1,"x"]]']),
    (Move(1), ['30[{"x":1,"y":0}]']),
    (Point(1, 2), ['30[{"x":1,"y":2}]']),
    (b"\x00", ['61-0[{"_placeholder":true,"num":0}]', b"\x00"]),
    ({"deep": [b"\x00"]}, ['61-0[{"deep":[{"_placeholder":true,"num":0}]}]', b"\x00"]),
    ({"error": "mine"}, ['30[{"error":"mine"}]']),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("value", "packets"), RETURNED, ids=label)
@looped
async def test_what_is_returned(value: Any, packets: list[Any], asynchronous: bool) -> None:
    """What a handler returns is the acknowledgement: None gives no value, a tuple several; without an id nothing is
    sent."""
    io = SocketIO()

    async def handler(socket: Socket) -> Any:
        await asyncio.sleep(0)
        return value

    io.on("x", handler if asynchronous else lambda socket: value)
    async with served(io) as url, entered(url) as client:
        await client.say('20["x"]')
        assert await client.take(len(packets)) == packets
        await client.say('2["x"]')
        await client.sync()


@pytest.mark.parametrize("value", [object(), {1, object()}, {"x": ...}], ids=["object", "set", "deep"])
@looped
async def test_what_cannot_be_returned(value: Any) -> None:
    """If an answer cannot be sent, the client gets an internal error, and not silence."""
    io = SocketIO()
    io.on("x", lambda socket: value)
    async with served(io) as url, entered(url) as client:
        assert await client.ask("x") == [{"error": "internal"}]


async def _cancelled(socket: Socket) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def _cancelled_inline(socket: Socket) -> None:
    raise asyncio.CancelledError


def _raises(socket: Socket) -> None:
    raise KeyError("secret")


async def _raises_later(socket: Socket) -> None:
    await asyncio.sleep(0)
    raise InvalidValue("secret")


async def _raises_at_once(socket: Socket) -> None:
    raise ZeroDivisionError("secret")


def _exits(socket: Socket) -> None:
    sys.exit("secret")


async def _exits_later(socket: Socket) -> None:
    await asyncio.sleep(0)
    sys.exit(1)


async def _interrupted(socket: Socket) -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


FAILING = [_raises, _raises_later, _raises_at_once, _cancelled, _cancelled_inline, _exits, _exits_later, _interrupted]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("handler", FAILING, ids=label)
@looped
async def test_exceptions(handler: Any, several: bool) -> None:
    """When a handler raises or exits, the client gets only {"error": "internal"}, the connection, the order and the
    server survive, and the log names the socket (hostile 44, 57)."""
    io = SocketIO()
    io.on("x", handler)
    if several:
        io.on("x", lambda socket: "the other one runs")
    io.on("echo", lambda socket, value: value)
    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say('20["x"]', '2["x"]', '21["echo",1]')
        assert await client.take(2) == ['30[{"error":"internal"}]', "31[1]"]
        assert partyline.counters.errors == 2


@looped
async def test_a_handler_that_the_application_cancels() -> None:
    """The event of a cancelled handler is answered as failed, and the events after it get their turn."""
    io = SocketIO()
    running: list[asyncio.Task[Any]] = []

    @io.on("hang")
    async def hang(socket: Socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append(task)
        await asyncio.Event().wait()

    io.on("echo", lambda socket, value: value)
    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say('20["hang"]', '21["echo",1]')
        await eventually(lambda: running, "it runs")
        running[0].cancel()
        assert await client.take(2) == ['30[{"error":"internal"}]', "31[1]"]
        assert partyline.counters.errors == 1


@looped
async def test_an_exception_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the socket's id, the event and the cause."""
    io = SocketIO()
    io.on("x", _raises)
    async with served(io) as url, entered(url) as client:
        await client.ask("x")
        sid = client.sid
    (record,) = (record for record in caplog.records if record.name == "partyline.socketio")
    assert sid in str(record.__dict__)
    assert "'x'" in str(record.__dict__)
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, KeyError])
@looped
async def test_failures_of_whatever_listens(failure: type[BaseException]) -> None:
    """Whatever function a program registers may fail or exit: only that call is lost, and the server goes on (hostile
    57)."""
    io = SocketIO()

    def fail(*arguments: Any) -> None:
        raise failure

    async def fail_later(*arguments: Any) -> None:
        await asyncio.sleep(0)
        raise failure

    notes = Notes()
    io.on_disconnecting(fail)
    for handler in (fail, fail_later, lambda socket, reason: notes.append(reason)):
        io.on_disconnect(handler)
    io.on_invalid(fail)
    io.on("echo", lambda socket, value: value)
    io.on("number", _takes_a_number)

    @io.on("listen")
    def listen(socket: Socket) -> None:
        socket.on_any_outgoing(fail)
        socket.use(fail)

    async with served(io) as url:
        async with entered(url) as client:
            assert (await client.ask("number", "x"))[0]["error"] == "invalid_arguments"
            await client.ask("listen")
            only(io).emit("out")
            assert await client.event() == ["out"]
            assert await client.ask("echo", 1) == [{"error": "internal"}]
        await notes.sync(1)
        io.on_any(fail)
        async with entered(url) as client:
            assert await client.ask("echo", 1) == [{"error": "internal"}]
            await client.sync()


def _takes_a_number(socket: Socket, number: int) -> int:
    return number


@looped
async def test_no_handler() -> None:
    """An event without a handler is dropped: it gets no answer and does not end the connection."""
    async with served(SocketIO()) as url, entered(url) as client:
        await client.say('20["x",1]')
        await client.sync()


# Several handlers


@looped
async def test_several_handlers() -> None:
    """All handlers of an event run, in the order in which they were added; the first value is the answer."""
    io = SocketIO()
    notes = Notes()

    @io.on("x")
    async def first(socket: Socket, n: int) -> None:
        await asyncio.sleep(0)
        notes.append("first")

    @io.on("x")
    def second(socket: Socket, n: int) -> str:
        notes.append("second")
        return "second"

    @io.on("x")
    def third(socket: Socket, n: int) -> str:
        notes.append("third")
        return "third"

    async with served(io) as url, entered(url) as client:
        assert await client.ask("x", 1) == ["second"]
        assert notes == ["first", "second", "third"]
        io.off("x", second)
        assert await client.ask("x", 1) == ["third"]
        io.off("x")
        await client.say('20["x",1]')
        await client.sync()
        io.off("x")
        io.off("never")


@looped
async def test_on_any() -> None:
    """Catch-all listeners get every event with its name and arguments before its handlers, also if it has none."""
    io = SocketIO()
    notes = Notes()

    @io.on_any
    async def anything(socket: Socket, event: str, *arguments: Any) -> str:
        await asyncio.sleep(0)
        notes.append((event, arguments))
        return "no answer"

    io.on("x", lambda socket, *arguments: notes.append("x"))
    async with served(io) as url, entered(url) as client:
        assert await client.ask("x", 1, [2]) == []
        await client.say('20["unknown"]')
        await notes.sync(3)
        assert notes == [("x", (1, [2])), "x", ("unknown", ())]
        await client.sync()
        io.off_any(anything)
        await client.ask("x")
        assert notes[3:] == ["x"]


@looped
async def test_a_listener_of_everything_that_raises() -> None:
    """A catch-all that raises gives an internal error; the event's own handler runs all the same."""
    io = SocketIO()
    notes = Notes()

    @io.on_any
    def anything(socket: Socket, event: str, *arguments: Any) -> None:
        raise KeyError("secret")

    io.on("x", lambda socket: notes.append("ran"))
    async with served(io) as url, entered(url) as client:
        assert await client.ask("x") == [{"error": "internal"}]
        assert notes == ["ran"]


@looped
async def test_handlers_added_later() -> None:
    """A handler that is added while clients are connected serves them, too."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client, polled(url) as other:
        await other.enter()
        io.on("x", lambda socket: "now")
        assert await client.ask("x") == ["now"]
        assert await other.ask("x") == ["now"]
