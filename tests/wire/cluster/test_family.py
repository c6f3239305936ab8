"""The sharded and the streams form, against what Node says and against what anybody may say."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.wire.cluster import family
from partyline.wire.cluster.messages import (
    Answered,
    Emit,
    Expel,
    Fetch,
    Missing,
    Move,
    NodeMessage,
    Reached,
    ServerSide,
    ServerSideAnswer,
    Sockets,
)
from partyline.wire.cluster.shapes import UNREADABLE
from partyline.wire.cluster.sharded import MODES, Sharded
from partyline.wire.cluster.streams import Session, Streams, is_offset, read_session, session_key, write_session
from tests.vectors.node import vectors

from .vectors import Vector, plain, published

FLAGS = ("compress", "expectSingleResponse", "volatile")


def comparable(said: Any) -> Any:
    """Without what we do not pass on: flags that say nothing about who gets an event, undefined keys."""
    if isinstance(said, dict):
        return {key: comparable(value) for key, value in said.items() if key not in FLAGS}
    return [comparable(value) for value in said] if isinstance(said, list) else said


def as_it_was(message: NodeMessage) -> NodeMessage:
    """A count of sockets as the sockets."""
    return (
        msgspec.structs.replace(message, sockets=["s"] * message.many, many=0)
        if isinstance(message, Reached)
        else message
    )


def numbers_as_text(said: Any) -> Any:
    if said["data"].get("opts", {}).get("rooms") == [5]:
        said["data"]["opts"]["rooms"] = ["5"]
    return said


CASES = [
    pytest.param(mode, vector.values[0], id=f"{mode}-{vector.id}")
    for mode in MODES
    for vector in published(f"sharded-{mode}")
]


@pytest.mark.parametrize(("mode", "vector"), CASES)
def test_sharded_is_read_and_written_alike(mode: Any, vector: Vector) -> None:
    """Whatever a Node server publishes is read, and written again it says the same on the same channel."""
    us = Sharded("us", mode=mode)
    namespace = vector.channel.split("#")[1]
    said = plain(vector.data)
    answers = said["type"] in family.ANSWERS
    heard = (us.read_answer if answers else us.read)(namespace, vector.data)
    assert heard is not None
    assert (us.read if answers else us.read_answer)(namespace, vector.data) is None
    sender, message = heard
    to = vector.channel.split("#")[2] if answers else ""
    ((channel, written),) = Sharded(sender, mode=mode).write(as_it_was(message), to)
    assert channel == vector.channel
    assert (written[:1] == b"{") == (vector.data[:1] == b"{")
    assert comparable(plain(written)) == comparable(numbers_as_text(said))


@pytest.mark.parametrize("vector", published("streams"))
def test_streams_are_published_alike(vector: Vector) -> None:
    """Questions and answers of a Node server are read, and written again they say the same on the same channel."""
    us = Streams("us")
    heard = us.read(vector.channel.split("#")[1], vector.data)
    assert heard is not None
    sender, message = heard
    more = vector.channel.split("#")[2]
    ((channel, written),) = Streams(sender).write(as_it_was(message), more)
    assert (channel, comparable(plain(written))) == (vector.channel, comparable(plain(vector.data)))


ENTRIES = [pytest.param(one, id=one["call"][:40]) for one in vectors("cluster-streams") if "fields" in one]


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_are_read_and_written_alike(entry: dict[str, Any]) -> None:
    """What a Node server adds to a stream is read, and added again it is the same entry."""
    us = Streams("us")
    fields = [field.encode() for field in entry["fields"][5:]]
    heard = us.read_entry(fields)
    assert heard is not None
    sender, message = heard
    (command,) = Streams(sender).entries(message)
    assert Streams(sender).write(message) == []
    assert list(command[:-1]) == ["XADD", *entry["fields"][:-1]]
    data, again = fields[-1], command[-1]
    assert isinstance(again, bytes)
    if data[:1] == b"{":
        said, back = json.loads(data), json.loads(again)
        said = numbers_as_text({"data": said})["data"]
    else:
        said, back = (msgspec.msgpack.decode(base64.b64decode(one)) for one in (data, again))
    assert comparable(back) == comparable(said)
    assert Streams(sender).read_entry(fields) is None


def test_channels_of_rooms() -> None:
    """A room has a channel by the mode, and by the length of its name as JavaScript counts it."""
    twenty, emoji = "x" * 20, "🎉" * 10
    assert [Sharded("us", "k", mode).room("/", "room") for mode in MODES] == ["k#/#room#", "k#/#room#", ""]
    assert [Sharded("us", "k", mode).room("/", twenty) for mode in MODES] == ["", f"k#/#{twenty}#", ""]
    assert Sharded("us", "k").room("/", emoji) == ""


MESSAGES: list[NodeMessage] = [
    Emit("/a", "hello", [1, {"two": [None]}], ["r"], ["x"], volatile=True),
    Emit("/a", "hello", [b"\x00"], [], []),
    Emit("/a", "hello", [], ["r"], [], request="q", seconds=2.5),
    Move("/a", ["r"], [], ["in"], []),
    Move("/a", ["r"], [], [], ["out"]),
    Expel("/a", ["r"], ["x"], close=True),
    Fetch("/a", "q", ["r"], ["x"]),
    Sockets("/a", "q", [("s", ["s", "r"], {"n": b"\x01"})], [{"address": "::1"}]),
    ServerSide("/a", "told", [1, b"\x01"]),
    ServerSide("/a", "told", [1], "q"),
    ServerSideAnswer("/a", "q", {"x": 1}),
    Answered("/a", "q", "", [b"\x01"]),
]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("mode", MODES)
def test_ours_are_read_by_ours(mode: Any, message: NodeMessage) -> None:
    """Whatever we write in the sharded form, we read as the same."""
    us, them = Sharded("us", mode=mode), Sharded("them", mode=mode)
    ((_, data),) = them.write(message, "us")
    assert us.read("/a", data) == ("them", message) or us.read_answer("/a", data) == ("them", message)


@pytest.mark.parametrize("message", MESSAGES)
def test_streams_of_ours_are_read_by_ours(message: NodeMessage) -> None:
    """The same for the streams form."""
    us, them = Streams("us"), Streams("them")
    if entries := them.entries(message):
        (command,) = entries
        fields = [one.encode() if isinstance(one, str) else one for one in command[6:]]
        assert us.read_entry(fields) == ("them", message)
    else:
        ((_, written),) = them.write(message, "us")
        assert us.read("/a", written) == ("them", message)


def test_what_has_no_words() -> None:
    """That a client has gone is not said."""
    assert family.write(Missing("/", "q", "s")) == []


KEPT = (
    "hKNzaWS0NXJzX0VtUjZ1TXJPZmVadEFBQUGjcGlktDJQMXA1SHhleVRETHZCRWxBQUFCpXJvb21zkrQ1cnNfRW1SNnVNck9mZVp0QUFBQaVyb29t"
    "MaRkYXRhgqN3aG+hQaFuAQ=="
)


def test_a_session_of_node() -> None:
    """A session that a Node server has kept is read, and written again it is the same bytes."""
    session = read_session(KEPT.encode())
    sid = "5rs_EmR6uMrOfeZtAAAA"
    assert session == Session(sid, "2P1p5HxeyTDLvBElAAAB", [sid, "room1"], {"who": "A", "n": 1})
    assert write_session(session) == KEPT.encode()
    assert session_key(session.pid) == "sio:session:2P1p5HxeyTDLvBElAAAB"


@pytest.mark.parametrize(
    ("offset", "is_one"),
    [
        ("1795967278771-0", True),
        ("1-2-3", False),
        ("", False),
        ("-1", False),
        ("1-", False),
        (5, False),
        ("9" * 30 + "-1", False),
    ],
)
def test_offsets(offset: object, is_one: bool) -> None:
    """An offset is the id of an entry, and nothing else is."""
    assert is_offset(offset) is is_one


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
DATA = st.dictionaries(
    st.sampled_from(["opts", "requestId", "rooms", "close", "packet", "sockets", "clientCount"]), JSON, max_size=6
)
LIKELY = st.fixed_dictionaries(
    {"uid": st.just("n"), "nsp": st.just("/"), "type": st.integers(0, 14)}, optional={"data": DATA | JSON}
)


@given(st.binary() | LIKELY.map(msgspec.msgpack.encode) | (LIKELY | JSON).map(msgspec.json.encode))
def test_whatever_is_published_properties(data: bytes) -> None:
    """Any bytes are a message, nothing, or one of the errors that are counted."""
    for read in (Sharded("us").read, Sharded("us").read_answer, Streams("us").read):
        try:
            heard = read("/", data)
        except UNREADABLE:
            continue
        assert heard is None or isinstance(heard[1], NodeMessage)


VALUES = st.binary(max_size=40) | DATA.map(msgspec.json.encode) | DATA.map(msgspec.msgpack.encode).map(base64.b64encode)


@given(
    st.lists(st.sampled_from([b"uid", b"nsp", b"type", b"data"]) | st.binary(max_size=4) | VALUES, max_size=9)
    | st.tuples(st.integers(0, 14), VALUES).map(lambda one: [b"nsp", b"/", b"type", b"%d" % one[0], b"data", one[1]]),
    st.binary(max_size=60),
)
def test_whatever_is_in_a_stream_properties(fields: list[bytes], session: bytes) -> None:
    """Any entry is a message, nothing, or one of the errors that are counted; so is any session."""
    try:
        heard = Streams("us").read_entry(fields)
    except UNREADABLE:
        pass
    else:
        assert heard is None or isinstance(heard[1], NodeMessage)
    try:
        assert isinstance(read_session(session), Session)
    except UNREADABLE:
        pass
