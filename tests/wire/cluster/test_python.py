"""The form of python-socketio, against what it says and against what anybody may say."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import InvalidValue
from partyline.wire.cluster.messages import Answered, Emit, Expel, Fetch, Move, NodeMessage, Reached
from partyline.wire.cluster.python import Python
from partyline.wire.cluster.shapes import UNREADABLE
from tests.vectors.node import vectors

US = Python("us")
VECTORS = [pytest.param(one, id=f"{number}-{one['call'][:40]}") for number, one in enumerate(vectors("cluster-python"))]


@pytest.mark.parametrize("vector", VECTORS)
def test_what_is_published_is_read_and_written_alike(vector: dict[str, str]) -> None:
    """Whatever python-socketio publishes is read, and written again it is the same; a callback is for its asker."""
    said = json.loads(vector["text"])
    heard = US.read("/", vector["text"].encode())
    if said["method"] == "callback":
        assert heard is None
        written = Python("x").write(
            Answered("/", f"{said['sid']} {said['id']}", said["sid"], said["args"]), said["host_id"]
        )
    else:
        assert heard is not None
        sender, message = heard
        assert sender == said["host_id"]
        if said.get("callback"):
            assert isinstance(message, Emit)
            assert message.request == f"{said['callback'][0]} {said['callback'][2]}"
            return
        written = Python(sender).write(message)
        assert Python(sender).read("/", vector["text"].encode()) is None  # its own
    ((channel, data),) = written
    assert (channel, json.loads(data)) == (vector["channel"], said)


def test_pickles_are_never_read() -> None:
    """A pickle, as older versions write, is refused unread."""
    with pytest.raises(InvalidValue, match="pickles, which are never read"):
        US.read("/", pickle.dumps({"method": "emit", "event": "x", "data": []}))


@pytest.mark.parametrize(
    "message",
    [
        Emit("/", "x", [], [], [], request="q"),
        Fetch("/", "q", [], []),
        Reached("/", "s 1", ["s"]),
        Move("/", ["room", "another"], [], ["in"], []),
        Expel("/", ["room", "another"], [], close=True),
        Answered("/", "s 1", "another", [1]),
    ],
)
def test_what_has_no_words(message: NodeMessage) -> None:
    """What python-socketio could not understand is not said."""
    assert US.write(message) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(["emit", "callback", "disconnect", "enter_room", "leave_room", "close_room", "x"])
LIKELY = st.fixed_dictionaries(
    {"method": METHODS},
    optional={
        "event": st.text(),
        "data": JSON | st.lists(st.lists(JSON, max_size=2) | st.text(max_size=4), max_size=3),
        "binary": st.booleans(),
        "room": st.text() | st.none() | st.lists(st.text(), max_size=2) | JSON,
        "callback": st.tuples(st.text(), st.text(), st.integers()) | JSON,
        "sid": st.text(),
    },
)


@given(st.binary() | (LIKELY | JSON).map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_properties(data: bytes) -> None:
    """Any bytes are a message, nothing, or one of the errors that are counted."""
    try:
        heard: Any = US.read("/", data)
    except UNREADABLE:
        return
    assert heard is None or isinstance(heard[1], msgspec.Struct)
