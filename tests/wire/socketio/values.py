"""Packets as plain values to compare, and anything that a peer or an application may put in them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from partyline.wire.socketio.packets import Ack, Connect, ConnectError, Disconnect, Event, Messages, Packet, Reader


def seen(packet: Packet | None) -> tuple[Any, ...]:
    """A packet as a tuple: its kind, its namespace, and what it carries, decoded."""
    match packet:
        case Connect():
            return ("connect", packet.namespace, packet.auth)
        case Disconnect():
            return ("disconnect", packet.namespace)
        case ConnectError():
            return ("connect_error", packet.namespace, packet.data)
        case Event():
            return ("event", packet.namespace, packet.id, packet.name, packet.arguments())
        case Ack():
            return ("ack", packet.namespace, packet.id, packet.arguments())
    return ("unfinished",)


def read_all(reader: Reader, messages: Messages) -> tuple[Any, ...]:
    """The packet that the last message completes; none of the others completes one."""
    *first, last = messages
    for message in first:
        assert reader.receive(message) is None
    return seen(reader.receive(last))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda key: key != "_placeholder")


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and objects around `leaves`."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )


plain = nested(scalars)
with_binary = nested(scalars | st.binary(max_size=20))
namespaces = st.just("/") | st.text(st.characters(exclude_categories=["Cs"], exclude_characters=",?"), max_size=8).map(
    "/".__add__
)
ids = st.none() | st.integers(0, 2**53 - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
