"""Application values that are not plain JSON: what they become, and how an error names those without a form."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from collections import OrderedDict
from typing import Any, ClassVar

import msgspec
import pydantic
import pytest

from partyline.errors import InvalidValue
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Parser


class Markup(str):
    """As markupsafe's and Django's."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Meters(float):
    """As numpy's."""


class Id(int):
    pass


class Blob(bytes):
    pass


class Color(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    name: str = "n"
    inner: list[int] = [1]


@dataclasses.dataclass
class Point:
    x: Any


class Struct(msgspec.Struct):
    x: Any


VALUES: list[tuple[Any, Any]] = [
    (Markup("<b>"), "<b>"),
    (Meters(1.5), 1.5),
    (Id(5), 5),
    (Color.RED, "red"),
    ("a\ud83d", "a\ufffd"),
    ("\ud83d\ude00", "\U0001f600"),
    ({True: 1, None: 2, 3: 4}, {"true": 1, "null": 2, "3": 4}),
    ({Id(7): 1, Markup("k"): 2}, {"7": 1, "k": 2}),
    ({"half\ud83d": 1}, {"half\ufffd": 1}),
    (Model(), {"name": "n", "inner": [1]}),
    ([{"deep": (Model(), Markup("x"))}], [{"deep": [{"name": "n", "inner": [1]}, "x"]}]),
    (Point(Markup("x")), {"x": "x"}),
    (Point(Model()), {"x": {"name": "n", "inner": [1]}}),
    (Struct([Id(1)]), {"x": [1]}),
    (OrderedDict(a=Meters(2.0)), {"a": 2.0}),
    ([uuid.UUID(int=1), Markup("x")], ["00000000-0000-0000-0000-000000000001", "x"]),
    ([dt.date(2026, 1, 2), Markup("x")], ["2026-01-02", "x"]),
    pytest.param(memoryview(b"abcdef")[::2], b"ace", id="memoryview"),
    (Blob(b"x"), b"x"),
    ([Blob(b"x"), Markup("y"), b"z"], [b"x", "y", b"z"]),
]
PARSERS: list[Parser] = [JSON, MSGPACK]
both = pytest.mark.parametrize("parser", PARSERS, ids=["json", "msgpack"])


def read_back(parser: Parser, event: bool, *values: Any) -> list[Any]:
    messages = parser.event("/", "e", values) if event else parser.ack("/", 1, values)
    reader = parser.reader(5)
    *first, last = messages
    for message in first:
        assert reader.receive(message) is None
    packet = reader.receive(last)
    arguments: list[Any] = packet.arguments()  # type: ignore[union-attr]
    return arguments


@both
@pytest.mark.parametrize("event", [True, False], ids=["event", "ack"])
@pytest.mark.parametrize(("value", "arrives"), VALUES, ids=lambda value: ascii(value)[:30])
def test_values_that_encoders_refuse(parser: Parser, event: bool, value: Any, arrives: Any) -> None:
    """What `json.dumps` can write, and models, arrive as the corresponding plain values, with either parser, alone and
    among others."""
    assert read_back(parser, event, value) == [arrives]
    assert read_back(parser, event, 1, [value, value], b"b") == [1, [arrives, arrives], b"b"]


class Opaque:
    plain: ClassVar[int] = 1


def circle() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


REFUSED: list[tuple[Any, str]] = [
    (Opaque(), "argument 2 cannot be sent: it is a Opaque"),
    ([1, {"who": {"when": Opaque()}}], "argument 2[1]['who']['when'] cannot be sent: it is a Opaque"),
    ({(1, 2): 1}, "argument 2 cannot be sent: it has a key that is a tuple"),
    ({"a": {frozenset(): 1}}, "argument 2['a'] cannot be sent: it has a key that is a frozenset"),
    (circle(), "argument 2 cannot be sent: it nests too deep"),
    ({"a": Point([Opaque()])}, "argument 2['a'] cannot be sent: it is a Opaque"),
    ({"x" * 1000: Opaque()}, "argument 2['xxx"),
]


@both
@pytest.mark.parametrize("event", [True, False], ids=["event", "ack"])
@pytest.mark.parametrize(("value", "says"), REFUSED, ids=lambda value: ascii(value)[:30])
def test_values_without_a_form(parser: Parser, event: bool, value: Any, says: str) -> None:
    """The error names the argument, the place in it and the value, in one short line."""
    with pytest.raises(InvalidValue) as caught:
        read_back(parser, event, 1, value)
    assert says in caught.value.message
    assert len(caught.value.message) < 200
    assert (caught.value.code, caught.value.field) == ("invalid_arguments", "arguments")


@both
@pytest.mark.parametrize("name", [None, 5, b"x", ["x"], {"x": 1}])
def test_an_event_has_a_text_for_its_name(parser: Parser, name: Any) -> None:
    """An event's name has to be text, because clients end their connection on anything else."""
    with pytest.raises(InvalidValue, match=r"event: .* is not a text"):
        parser.event("/", name, ())


@both
def test_a_name_of_a_subclass(parser: Parser) -> None:
    """A name may be a member of an enumeration of texts."""
    name = enum.StrEnum("Names", ["said"])["said"]
    packet = parser.reader(5).receive(parser.event("/", name, ())[0])
    assert packet.name == "said"  # type: ignore[union-attr]


@both
def test_data_of_a_refusal(parser: Parser) -> None:
    """The data of a refusal is written, and named in errors, in the same way."""
    packet = parser.reader(5).receive(parser.connect_error("/", "no", {"why": Markup("x")})[0])
    assert packet.data == {"message": "no", "data": {"why": "x"}}  # type: ignore[union-attr]
    with pytest.raises(InvalidValue, match=r"the data\['data'\]\['why'\] cannot be sent: it is a Opaque"):
        parser.connect_error("/", "no", {"why": Opaque()})


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_whole_numbers_of_more_than_64_bits(number: int) -> None:
    """JSON has a form for whole numbers of more than 64 bits, as `json.dumps` writes it; MessagePack has none, and the
    error names the place."""
    assert JSON.event("/", "e", ({"n": [number]},)) == (f'2["e",{{"n":[{number}]}}]',)
    assert JSON.event("/", "e", ([number, Markup("x")],)) == (f'2["e",[{number},"x"]]',)
    with pytest.raises(InvalidValue, match=r"argument 1\['n'\]\[1\] cannot be sent: it is a whole number"):
        MSGPACK.event("/", "e", ({"n": [0, number]},))
