"""The classic form of Socket.IO's clusters, against what Node says and against what anybody may say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import InvalidValue
from partyline.wire.cluster.classic import Classic
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
from partyline.wire.cluster.shapes import MOST, UNREADABLE

from .vectors import Vector, plain, published

US = Classic("us")
ADDED = ("compress", "expectSingleResponse", "volatile")
"""Flags that say nothing about who gets an event."""


def read(form: Classic, channel: str, data: bytes) -> tuple[str, NodeMessage] | None:
    """Read as what subscribed to this channel would."""
    kind, namespace = channel.split("#")[:2]
    if kind.endswith("-request"):
        return form.read_request(namespace, data)
    if kind.endswith("-response"):
        return form.read_answer(namespace, data)
    return form.read_event(namespace, data)


def without_flags(said: Any) -> Any:
    """The same without the flags that we do not pass on."""
    options = said[2] if isinstance(said, list) else said.get("opts", {})
    for flag in ADDED:
        options.get("flags", {}).pop(flag, None)
    return said


@pytest.mark.parametrize("vector", [*published("classic"), *published("emitter")])
def test_what_node_publishes_is_read_and_written_alike(vector: Vector) -> None:
    """Whatever a Node server or the emitter publishes is read, and written again it says the same on the same
    channel."""
    heard = read(US, vector.channel, vector.data)
    said = plain(vector.data)
    if "allRooms" in vector.call and vector.channel.startswith("socket.io-response"):
        assert heard is not None  # names alone: nobody of ours asks for them
        return
    assert heard is not None
    sender, message = heard
    if isinstance(message, Reached):
        message = Reached(message.namespace, message.request, [f"s{n}" for n in range(message.many)])
    if vector.channel.startswith("socket.io-response"):  # we name another node's request with its kind
        message = msgspec.structs.replace(message, request=f"{said.get('type', 5)}:{said['requestId']}")
    elif getattr(message, "request", None):  # and our own as they are
        message = msgspec.structs.replace(message, request=str(message.request).partition(":")[2])
    ((channel, written),) = Classic(sender).write(message)
    again = plain(written)
    if vector.who == "emitter" and "uid" not in said and isinstance(said, dict):
        assert again.pop("uid") == ""
    if "allRooms" in vector.call:
        again, said = {"requestId": again["requestId"]}, {"requestId": said["requestId"]}
    if "numeric" in vector.call:
        said[2]["rooms"] = ["5"]
    if '"odd"' in vector.call:
        assert again[1]["data"][1:3] == [None, {}]
        assert again[1]["data"][3] == datetime(1970, 1, 1, tzinfo=UTC)
        assert str(again[1]["data"][4:]) == str(said[1]["data"][4:])  # NaN is not itself
        return
    assert (channel, without_flags(again)) == (vector.channel, without_flags(said))


@pytest.mark.parametrize("vector", published("classic"))
def test_own_words_are_not_heard(vector: Vector) -> None:
    """What comes back to the node that has said it is ignored."""
    said = plain(vector.data)
    uid = said[0] if isinstance(said, list) else said.get("uid")
    if uid is not None:
        assert read(Classic(uid), vector.channel, vector.data) is None


ANSWERS: list[tuple[NodeMessage, Any]] = [
    (Sockets("/", "0:r", [("a", ["a", "x"], {}), ("b", ["b"], {})]), {"requestId": "r", "sockets": ["a", "b"]}),
    (Sockets("/", "1:r", [("a", ["a", "x"], {}), ("b", ["b"], {})]), {"requestId": "r", "rooms": ["a", "b", "x"]}),
    (
        Sockets("/", "5:r", [("a", ["a"], {"key": b"\x01"})], [{"address": "::1"}]),
        {
            "requestId": "r",
            "sockets": [
                {
                    "id": "a",
                    "handshake": {"address": "::1"},
                    "rooms": ["a"],
                    "data": {"key": {"type": "Buffer", "data": [1]}},
                }
            ],
        },
    ),
    (Reached("/", "7:r", ["a", "b"]), {"type": 8, "requestId": "r", "clientCount": 2}),
    (Reached("/", "7:r", []), {"type": 8, "requestId": "r", "clientCount": 0}),
    (Answered("/", "7:r", "a", [b"\x01", 2]), {"type": 9, "requestId": "r", "packet": b"\x01"}),
    (Answered("/", "7:r", "a", []), {"type": 9, "requestId": "r", "packet": None}),
    (ServerSideAnswer("/", "6:r", [1]), {"type": 6, "requestId": "r", "data": [1]}),
]


@pytest.mark.parametrize(("message", "said"), ANSWERS)
def test_answers(message: NodeMessage, said: Any) -> None:
    """An answer has the form that belongs to the kind of its question, on the channel that all listen to."""
    ((channel, data),) = US.write(message)
    assert (channel, plain(data)) == ("socket.io-response#/#", said)


def test_what_this_form_has_no_words_for() -> None:
    """That a client has gone is not said."""
    assert US.write(Missing("/", "7:r", "a")) == []


def test_a_move_in_and_out_is_two_requests() -> None:
    """A move that leaves and joins says both, in that order."""
    written = US.write(Move("/", ["a"], [], ["in"], ["out"]))
    assert [plain(data)["type"] for _, data in written] == [3, 2]


def test_bytes_for_servers_are_refused() -> None:
    """Bytes between servers, which Node's JSON would spoil, are refused with the way out."""
    with pytest.raises(InvalidValue, match=r"arguments: bytes cannot be sent to servers .*: send them as text"):
        US.write(ServerSide("/", "take", [{"in": [b"\x01"]}]))


def test_bytes_from_servers() -> None:
    """Bytes that JavaScript's JSON has spoilt are bytes again."""
    data = json.dumps({"uid": "n", "type": 6, "data": ["take", {"type": "Buffer", "data": [1, 255]}]}).encode()
    assert US.read_request("/", data) == ("n", ServerSide("/", "take", [b"\x01\xff"]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"type": 2, "sid": "a", "room": "x"}, Move("/", ["a"], [], ["x"], [], "a")),
        ({"type": 3, "sid": "a", "room": 5}, Move("/", ["a"], [], [], ["5"], "a")),
        ({"type": 4, "sid": "a", "close": True}, Expel("/", ["a"], [], close=True, only="a")),
        ({"type": 0, "requestId": "r", "rooms": ["x"]}, Fetch("/", "0:r", ["x"], [])),
        ({"type": 1, "requestId": "r"}, Fetch("/", "1:r", [], [])),
        ({"type": 2, "opts": {"rooms": [], "except": [1]}, "rooms": [2]}, Move("/", [], ["1"], ["2"], [])),
    ],
)
def test_requests_without_vectors(body: dict[str, Any], message: NodeMessage) -> None:
    """Requests of older versions, and those with numbers for rooms, are read."""
    assert US.read_request("/", json.dumps(body).encode()) == ("", message)


def test_patterns_are_escaped() -> None:
    """A namespace with the signs of patterns in its name is listened to alone."""
    assert US.pattern("/a*[b]?\\") == "socket.io#/a\\*\\[b\\]\\?\\\\#*"


def test_other_namespaces_are_ignored() -> None:
    """An event that names another namespace than its channel is not ours."""
    ((_, data),) = Classic("them").write(Emit("/a", "hello", [], [], []))
    assert US.read_event("/", data) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["type", "uid", "requestId", "opts", "rooms", "packet", "data", "sockets", "clientCount", "sid"])
LIKELY = st.dictionaries(KEYS, JSON | st.integers(0, 9), max_size=8)


@given(
    st.sampled_from(["socket.io#/#", "socket.io-request#/#", "socket.io-response#/#"]),
    st.binary() | LIKELY.map(msgspec.msgpack.encode) | (LIKELY | JSON).map(msgspec.json.encode),
)
def test_whatever_comes_properties(channel: str, data: bytes) -> None:
    """Any bytes are a message, nothing, or one of the errors that are counted."""
    try:
        heard = read(US, channel, data)
    except UNREADABLE:
        return
    assert heard is None or isinstance(heard[1], NodeMessage)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x94" * 5000,
        b"[" * 5000,
        b'{"requestId":"r","sockets":' + b"[" * 100 + b"]" * 100 + b"}",
        msgspec.msgpack.encode(["n", {"data": [1], "nsp": "/"}, {}]),
        msgspec.msgpack.encode(["n", {"data": [], "nsp": "/"}, {}]),
        msgspec.msgpack.encode(["n", {"data": ["a", msgspec.msgpack.Ext(7, b"x")], "nsp": "/"}, {}]),
        b"\x00" * (MOST + 1),
    ],
)
def test_what_is_malformed(data: bytes) -> None:
    """What is nothing of this form raises one of the errors that are counted, however long or deep it is."""
    for channel in ("socket.io#/#", "socket.io-request#/#", "socket.io-response#/#"):
        try:
            heard = read(US, channel, data)
        except UNREADABLE:
            continue
        assert heard is None, channel


def test_deep_events_are_refused() -> None:
    """Arguments that nest deeper than clients may be sent are refused."""
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    ((_, data),) = Classic("them").write(Emit("/", "hello", [deep], [], []))
    with pytest.raises(InvalidValue, match="nests deeper than 64 levels"):
        US.read_event("/", data)
