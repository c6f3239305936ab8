"""The JSON form as one table with four readings: written, read, after another packet, and with a wrong tail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import InvalidPacket, InvalidValue, PayloadTooLarge
from partyline.wire.socketio.packets import JSON, MAX_NAMESPACE, RESERVED, Event, Messages, Whole, whole

from .values import ids, names, namespaces, plain, read_all, seen, with_binary


@dataclass(frozen=True, slots=True)
class Row:
    """The messages of a packet, and their meaning."""

    name: str
    messages: Messages
    means: tuple[Any, ...]
    write: Callable[[], Messages] | None = None
    protocols: tuple[int, ...] = (5, 4)


TABLE = [
    Row("connect", ("0",), ("connect", "/", None), lambda: JSON.connect("/")),
    Row("connect with auth", ('0{"token":"x"}',), ("connect", "/", {"token": "x"})),
    Row("connect to a namespace", ("0/admin,",), ("connect", "/admin", None), lambda: JSON.connect("/admin")),
    Row("connect without a comma", ("0/admin",), ("connect", "/admin", None)),
    Row("connect with auth to a namespace", ('0/admin,{"a":1}',), ("connect", "/admin", {"a": 1})),
    Row(
        "connect with a query",
        ("0/admin?token=a%20b&x=&x=1,",),
        ("connect", "/admin", {"token": "a b", "x": "1"}),
        protocols=(4,),
    ),
    Row("connect with a query, no comma", ("0/admin?a=b",), ("connect", "/admin", {"a": "b"}), protocols=(4,)),
    Row("connect with an empty query", ("0/admin?,",), ("connect", "/admin", {}), protocols=(4,)),
    Row("a question mark is a character", ("0/a?b=c,",), ("connect", "/a?b=c", None), protocols=(5,)),
    Row("connected", ('0{"sid":"x"}',), ("connect", "/", {"sid": "x"}), lambda: JSON.connect("/", "x")),
    Row(
        "connected with a pid",
        ('0/admin,{"sid":"x","pid":"y"}',),
        ("connect", "/admin", {"sid": "x", "pid": "y"}),
        lambda: JSON.connect("/admin", "x", "y"),
    ),
    Row("disconnect", ("1",), ("disconnect", "/"), lambda: JSON.disconnect("/")),
    Row("disconnect from a namespace", ("1/admin,",), ("disconnect", "/admin"), lambda: JSON.disconnect("/admin")),
    Row(
        "refused",
        ('4/random,{"message":"Invalid namespace"}',),
        ("connect_error", "/random", {"message": "Invalid namespace"}),
        lambda: JSON.connect_error("/random", "Invalid namespace"),
    ),
    Row(
        "refused with data",
        ('4{"message":"no","data":{"code":401}}',),
        ("connect_error", "/", {"message": "no", "data": {"code": 401}}),
        lambda: JSON.connect_error("/", "no", {"code": 401}),
    ),
    Row(
        "refused in protocol 4",
        ('4/random,"Invalid namespace"',),
        ("connect_error", "/random", "Invalid namespace"),
        lambda: JSON.connect_error("/random", "Invalid namespace", protocol=4),
    ),
    Row(
        "refused with data in protocol 4",
        ('4{"code":401}',),
        ("connect_error", "/", {"code": 401}),
        lambda: JSON.connect_error("/", "no", {"code": 401}, protocol=4),
    ),
    Row("event", ('2["say"]',), ("event", "/", None, "say", []), lambda: JSON.event("/", "say", [])),
    Row(
        "event with arguments",
        ('2["say",1,"2",{"3":[false,null]}]',),
        ("event", "/", None, "say", [1, "2", {"3": [False, None]}]),
        lambda: JSON.event("/", "say", (1, "2", {"3": [False, None]})),
    ),
    Row("event with an id", ('212["say",1]',), ("event", "/", 12, "say", [1]), lambda: JSON.event("/", "say", [1], 12)),
    Row("event with id 0", ('20["say"]',), ("event", "/", 0, "say", []), lambda: JSON.event("/", "say", [], 0)),
    Row(
        "event of a namespace",
        ('2/admin,["say",1]',),
        ("event", "/admin", None, "say", [1]),
        lambda: JSON.event("/admin", "say", [1]),
    ),
    Row(
        "event of a namespace with an id",
        ('2/a/b-c,7["say"]',),
        ("event", "/a/b-c", 7, "say", []),
        lambda: JSON.event("/a/b-c", "say", [], 7),
    ),
    Row(
        "event with an offset",
        ('2["say",1,"0123456789abcdef-7"]',),
        ("event", "/", None, "say", [1, "0123456789abcdef-7"]),
        lambda: JSON.event("/", "say", [1], offset="0123456789abcdef-7"),
    ),
    Row("the largest id", ('29007199254740991["a"]',), ("event", "/", 9007199254740991, "a", [])),
    Row("an odd name", ('2["\\"\\\\ é 🎉"]',), ("event", "/", None, '"\\ é 🎉', [])),
    Row("an escaped name", ('2["\\u0061b",1]',), ("event", "/", None, "ab", [1])),
    Row("an empty name", ('2[""]',), ("event", "/", None, "", []), lambda: JSON.event("/", "", [])),
    Row("a number for a name", ("2[1,2]",), ("event", "/", None, "1", [2])),
    Row("a fraction for a name", ("21[1.5]",), ("event", "/", 1, "1.5", [])),
    Row("white space", ('2[ "say" , 1 ] ',), ("event", "/", None, "say", [1])),
    Row("a comma and brackets in a text", ('2["a,b]\\"[",",/"]',), ("event", "/", None, 'a,b]"[', [",/"])),
    Row("a lone surrogate", ('2["say","\\ud800","\\\\ud800"]',), ("event", "/", None, "say", ["\ufffd", "\\ud800"])),
    Row("a lone surrogate in a name", ('2["\\udc00"]',), ("event", "/", None, "\ufffd", [])),
    Row("two halves of a character", ('2["a","\\ud83c\\udf89"]',), ("event", "/", None, "a", ["🎉"])),
    Row("the last of two keys", ('2["a",{"k":1,"k":2}]',), ("event", "/", None, "a", [{"k": 2}])),
    Row(
        "64 levels",
        ('2["a",' + "[" * 63 + "]" * 63 + "]",),
        ("event", "/", None, "a", [json.loads("[" * 63 + "]" * 63)]),
    ),
    Row("brackets in a text", ('2["a","' + "[{" * 99 + '"]',), ("event", "/", None, "a", ["[{" * 99])),
    Row(
        "a placeholder that stands for nothing",
        ('2["a",{"_placeholder":true,"num":0}]',),
        ("event", "/", None, "a", [{"_placeholder": True, "num": 0}]),
    ),
    Row("ack", ("312[]",), ("ack", "/", 12, []), lambda: JSON.ack("/", 12, [])),
    Row(
        "ack with arguments",
        ('3/admin,0["a",1]',),
        ("ack", "/admin", 0, ["a", 1]),
        lambda: JSON.ack("/admin", 0, ["a", 1]),
    ),
    Row(
        "binary event",
        ('51-["say",{"_placeholder":true,"num":0}]', b"\x01\x02"),
        ("event", "/", None, "say", [b"\x01\x02"]),
        lambda: JSON.event("/", "say", [b"\x01\x02"]),
    ),
    Row(
        "binary event at any depth",
        ('52-/admin,13["say",{"a":[{"_placeholder":true,"num":0},"x"]},{"_placeholder":true,"num":1}]', b"", b"\xff"),
        ("event", "/admin", 13, "say", [{"a": [b"", "x"]}, b"\xff"]),
        lambda: JSON.event("/admin", "say", [{"a": [b"", "x"]}, bytearray(b"\xff")], 13),
    ),
    Row(
        "binary ack",
        ('61-4[{"_placeholder":true,"num":0}]', b"\x00"),
        ("ack", "/", 4, [b"\x00"]),
        lambda: JSON.ack("/", 4, (memoryview(b"\x00"),)),
    ),
    Row(
        "attachments out of order",
        ('52-["say",{"num":1,"_placeholder":true},{"_placeholder":true,"num":0}]', b"0", b"1"),
        ("event", "/", None, "say", [b"1", b"0"]),
    ),
]
rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


@rows
def test_written(row: Row) -> None:
    """What an application can send is written as the row says, to the byte."""
    if row.write is not None:
        assert row.write() == row.messages


@rows
def test_read(row: Row) -> None:
    """A row's messages mean what the row says."""
    for protocol in row.protocols:
        assert read_all(JSON.reader(protocol), row.messages) == row.means


@rows
def test_read_behind_others(row: Row) -> None:
    """A reader that has read packets with and without attachments reads the next one the same."""
    for protocol in row.protocols:
        reader = JSON.reader(protocol)
        for before in ('2["x"]',), ('51-["x",{"_placeholder":true,"num":0}]', b"z"):
            read_all(reader, before)
            assert read_all(reader, row.messages) == row.means


@rows
def test_read_with_a_tail(row: Row) -> None:
    """With one character more or less it is another packet or an error, and never the same packet with the error
    unnoticed."""
    text = row.messages[0]
    assert isinstance(text, str)
    for cut in {text + "]", text + "x", text[:-1]} - {text}:
        reader = JSON.reader(row.protocols[0])
        try:
            found = seen(reader.receive(cut))
        except InvalidPacket:
            continue
        assert found[0] in ("connect", "disconnect") or text.endswith(" ")


@pytest.mark.parametrize("kind", ["event", "ack"])
def test_arguments_stay_as_they_came(kind: str) -> None:
    """Nothing is decoded until it is requested, each time anew, by a decoder of the handler's choice."""
    packet = JSON.reader(5).receive('2["say",{"a":1}, "b" ]' if kind == "event" else '35["say",{"a":1}, "b" ]')
    assert packet is not None
    raws = packet.raws  # type: ignore[union-attr]
    assert [bytes(raw) for raw in raws] == [b'"say"', b'{"a":1}', b'"b"']
    assert msgspec.json.decode(raws[1], type=dict[str, int]) == {"a": 1}
    first = packet.arguments()  # type: ignore[union-attr]
    first[-2]["a"] = 2
    assert packet.arguments()[-2] == {"a": 1}  # type: ignore[union-attr]


INVALID = [
    "",
    "abc",
    "7",
    "9[]",
    "x2[]",
    " 2[]",
    "-1",
    "é",
    "2",
    "2{}",
    "2abc",
    '2abc["say"]',
    '2-1["say"]',
    '2"say"',
    "2[]",
    "2[null]",
    "2[true]",
    '2[["say"]]',
    '2[{"a":1}]',
    '2["say"',
    '2["say",]',
    '2["say"]x',
    '2["say"]["say"]',
    '2["say",{]',
    "2['say']",
    '2["say",01]',
    '2["say",nan]',
    '2["say\n"]',
    '2["say",undefined]',
    '2["say","\\x"]',
    '2["say',
    '2["',
    '2["\\',
    '2/admin["say"]',
    "2/admin,",
    "2/admin",
    '200000000000000001["say"]',
    '212345678901234567890["say"]',
    '21.5["say"]',
    '2٣["say"]',
    '21 ["say"',
    '21-["say"]',
    *[f'2["{name}"]' for name in sorted(RESERVED)],
    '2["conn\\u0065ct"]',
    '51-["connect",{"_placeholder":true,"num":0}]',
    "3",
    "3[]",
    "3/admin,[]",
    "31",
    "31{}",
    '31"x"',
    "31[",
    "3-1[]",
    "0[]",
    "0null",
    '0"x"',
    "01",
    "0{",
    "01{}",
    "0/admin,[]",
    "0true",
    "1{}",
    "1[]",
    "12",
    "1/admin,{}",
    "10-",
    "4",
    "4[]",
    "41",
    "4null",
    '45"x"',
    "5",
    '5["say"]',
    "51-",
    "51-{}",
    '5-["say"]',
    '50-["say"]',
    '511-["say"]',
    '5-1-["say"]',
    '51["say"]',
    '5x-["say"]',
    '5999999999-["say"]',
    '59999999999999-["say"]',
    '51-[{"_placeholder":true,"num":0}]',
    "61-[]x",
    '61-[{"_placeholder":true,"num":0}]',
    '2["a",' + "[" * 64 + "]" * 65,
    '2["a",' + '{"a":' * 70 + "1" + "}" * 70 + "]",
    "2" + "[" * 100_000,
    "0" + '{"a":' * 100_000,
    '51-["a",' + "[" * 100_000,
    "2/" + "n" * MAX_NAMESPACE + ',["a"]',
    "0/" + "n" * MAX_NAMESPACE,
    '2["\ud800"]',
    '2["a","\ud800\\u0000"]',
]


@pytest.mark.parametrize("message", INVALID, ids=lambda text: ascii(text)[:40])
def test_invalid_packets(message: str) -> None:
    """Anything but a client's packet is refused, with a reason that can be logged."""
    for protocol in (5, 4):
        with pytest.raises(InvalidPacket) as caught:
            JSON.reader(protocol).receive(message)
        assert len(caught.value.message) < 300
        caught.value.message.encode()


@pytest.mark.parametrize(
    "text",
    [
        '51-["a",{"_placeholder":true,"num":1}]',
        '51-["a",{"_placeholder":true,"num":-1}]',
        '51-["a",{"_placeholder":true,"num":"0"}]',
        '51-["a",{"_placeholder":true,"num":0.0}]',
        '51-["a",{"_placeholder":true,"num":false}]',
        '51-["a",{"_placeholder":true}]',
        '51-["a",{"_placeholder":true,"num":1e400}]',
        '51-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]',
        '51-["a"]',
        '51-["a",{"_placeholder":1,"num":0}]',
        '51-["a",{"_placeholder":false,"num":0}]',
    ],
)
def test_placeholders(text: str) -> None:
    """Each attachment has one placeholder, and each placeholder one attachment."""
    with pytest.raises(InvalidPacket):
        read_all(JSON.reader(5), (text, b"x"))


def test_attachments_come_right_behind_their_packet() -> None:
    """Text between attachments and unannounced binary are refused."""
    reader = JSON.reader(5)
    assert reader.receive('52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]') is None
    assert reader.receive(b"x") is None
    with pytest.raises(InvalidPacket):
        reader.receive('2["b"]')
    for one in (JSON.reader(5), JSON.reader(5)):
        with pytest.raises(InvalidPacket):
            one.receive(b"x")
    reader = JSON.reader(5)
    read_all(reader, ('51-["a",{"_placeholder":true,"num":0}]', b"x"))
    with pytest.raises(InvalidPacket):
        reader.receive(b"x")


def test_at_most_so_many_attachments() -> None:
    """Ten attachments are read, eleven are refused before any of them arrives; the number is a setting."""
    for count, limit, right in ((10, 10, True), (11, 10, False), (11, 11, True), (2, 1, False)):
        places = ",".join(f'{{"_placeholder":true,"num":{n}}}' for n in range(count))
        text = f'5{count}-["a",{places}]'
        reader = JSON.reader(5, max_attachments=limit)
        if right:
            assert len(read_all(reader, (text, *[b"x"] * count))[-1]) == count
        else:
            with pytest.raises(InvalidPacket):
                reader.receive(text)


def test_a_packet_in_all_has_a_limit() -> None:
    """Text and attachments of one packet count together, of two packets apart."""
    text = '52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    size = len(text)
    reader = JSON.reader(5, max_total=size + 10)
    for _ in range(3):
        read_all(reader, (text, b"12345", b"67890"))
    reader.receive(text)
    reader.receive(b"123456")
    with pytest.raises(PayloadTooLarge) as caught:
        reader.receive(b"78901")
    assert caught.value.limit == "max_message"
    with pytest.raises(PayloadTooLarge):
        JSON.reader(5, max_total=10).receive('2["123456"]')


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 5000])
def test_numbers_beyond_a_value(number: str) -> None:
    """A number that cannot be represented is found when it is decoded, and refused like any malformed packet."""
    packet = JSON.reader(5).receive(f'2["a",{number}]')
    assert isinstance(packet, Event)
    with pytest.raises(InvalidPacket):
        packet.arguments()


def test_what_an_application_may_send() -> None:
    """Dates, sets and the like have a JSON form, tuples are arrays, and the caller's values are not changed."""
    value = {"when": datetime(2020, 1, 2, tzinfo=UTC), "in": (b"x", [b"y"])}
    messages = JSON.event("/", "a", [value, {1: 2}, float("nan")])
    assert messages == (
        '52-["a",{"when":"2020-01-02T00:00:00Z","in":[{"_placeholder":true,"num":0},[{"_placeholder":true,"num":1}]]},'
        '{"1":2},null]',
        b"x",
        b"y",
    )
    assert value["in"] == (b"x", [b"y"])


class Point(msgspec.Struct):
    x: int
    data: bytes


def test_structs_of_an_application() -> None:
    """A struct is an object, and binary values in it are attachments."""
    text, data = JSON.event("/", "a", [Point(1, b"z")])
    assert (text, data) == ('51-["a",{"x":1,"data":{"_placeholder":true,"num":0}}]', b"z")


def circle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


@pytest.mark.parametrize("argument", [object(), {(1, 2): 3}, circle(), [{"a": object()}], lambda: 1])
def test_what_an_application_may_not_send(argument: object) -> None:
    """A value without a JSON form is the application's error, which says so."""
    for write in (lambda: JSON.event("/", "a", [argument]), lambda: JSON.ack("/", 1, [argument])):
        with pytest.raises(InvalidValue) as caught:
            write()
        assert caught.value.code == "invalid_arguments"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_not_written(name: str) -> None:
    """A reserved event name is not sent, because a peer would refuse it."""
    with pytest.raises(InvalidValue):
        JSON.event("/", name, [])


@given(namespaces, names.filter(lambda name: name not in RESERVED), st.lists(with_binary, max_size=4), ids)
def test_event_round_trip_properties(namespace: str, name: str, arguments: list[Any], number: int | None) -> None:
    """An event is read as it was written, binary at any depth included."""
    messages = JSON.event(namespace, name, arguments, number)
    got = read_all(JSON.reader(5, max_attachments=99), messages)
    assert got == ("event", namespace, number, name, arguments)


@given(namespaces, st.lists(plain, max_size=4), st.integers(0, 2**53 - 1))
def test_ack_round_trip_properties(namespace: str, arguments: list[Any], number: int) -> None:
    """An acknowledgement is read as it was written, binary at any depth included."""
    assert read_all(JSON.reader(5), JSON.ack(namespace, number, arguments)) == ("ack", namespace, number, arguments)


@given(st.lists(st.text(max_size=40) | st.binary(max_size=5), max_size=5), st.sampled_from([4, 5]))
def test_any_messages_properties(messages: list[str | bytes], protocol: int) -> None:
    """Any messages at all are packets or one documented error."""
    reader = JSON.reader(protocol)
    try:
        for message in messages:
            seen(reader.receive(message))
    except InvalidPacket:
        pass


_pieces = st.sampled_from(
    [*'0123456-,/[]{}":\\?', '"a"', "51-", "/admin,", '{"_placeholder":true,"num":0}', "null", "\\ud800", "1e9", " "]
)


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ('2["say",1,"x"]', ("say", 1, "x")),
        ('2/admin,7["say",1,"x"]', ("say", 1, "x")),
        ('2["say",1,"\\ud800"]', ("say", 1, "\ufffd")),
        ('2["say","1","x"]', None),
        ('2["say",1]', None),
        ('2["say",1,"x",2]', None),
        ('2["other",1,"x"]', None),
        ('2["s\\u0061y",1,"x"]', None),
    ],
)
def test_an_event_is_read_as_its_handler_wants_it(message: str, values: tuple[Any, ...] | None) -> None:
    """What is wanted reads all of an event that fits it; any other one comes as if nothing had been wanted."""
    reads = whole(int, str)

    def wanted(namespace: str, name: str) -> Whole | None:
        return reads if name == "say" else None

    packet, plain_one = JSON.reader(5).receive(message, wanted), JSON.reader(5).receive(message)
    assert isinstance(packet, Event)
    assert isinstance(plain_one, Event)
    assert (packet.wanted is reads, packet.values) == (values is not None, values or ())
    assert (packet.raws is None) == (values is not None)
    assert seen(packet) == seen(plain_one)


def test_a_name_that_is_written_oddly_is_no_other_name() -> None:
    """A quotation mark in a name does not end it: the handler of what stands before it is not asked."""
    asked: list[str] = []

    def wanted(namespace: str, name: str) -> Whole | None:
        asked.append(name)
        return whole(int)

    packet = JSON.reader(5).receive(r'2["say\" x",1]', wanted)
    assert isinstance(packet, Event)
    assert (packet.name, packet.arguments(), asked) == ('say" x', [1], [])


@given(st.lists(plain, max_size=4))
def test_reading_at_once_properties(arguments: list[Any]) -> None:
    """Whatever is sent, one pass over an event gives the arguments that several give."""
    (message,) = JSON.event("/", "say", arguments)
    reads = whole(*[Any] * len(arguments))
    packet, other = JSON.reader(5).receive(message, lambda *_: reads), JSON.reader(5).receive(message)
    assert isinstance(packet, Event)
    assert isinstance(other, Event)
    assert [*packet.values[1:]] == packet.arguments() == other.arguments()


@given(st.sampled_from(TABLE), st.data())
def test_mutated_packet_properties(row: Row, data: st.DataObject) -> None:
    """A packet with pieces changed, removed or inserted is a packet or one documented error."""
    text = row.messages[0]
    assert isinstance(text, str)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(_pieces) + text[at + data.draw(st.integers(0, 3)) :]
    reader = JSON.reader(data.draw(st.sampled_from([4, 5])))
    try:
        for message in (text, *row.messages[1:]):
            seen(reader.receive(message))
    except InvalidPacket:
        pass


@pytest.mark.parametrize(
    ("message", "namespace"),
    [
        (JSON.event("/", "a", ())[0], "/"),
        (JSON.event("/relay", "a", ("/other,",), 7)[0], "/relay"),
        (JSON.event("/relay", "a", (b"x",), 7)[0], "/relay"),
        (JSON.ack("/relay", 7, (b"x",))[0], "/relay"),
        (JSON.ack("/", 7, ())[0], "/"),
        (JSON.event("/relay", "a", (b"x",))[1], None),
        (JSON.connect("/relay", "sid")[0], None),
        (JSON.disconnect("/relay")[0], None),
        (JSON.connect_error("/relay", "no")[0], None),
    ],
)
def test_whose_a_message_is(message: str | bytes, namespace: str | None) -> None:
    """Events and acknowledgements name their namespace; other messages have none."""
    assert JSON.namespace(message) == namespace
