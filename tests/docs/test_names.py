"""Each public name of what programs hold stands in the page about it; what is for our own parts has an underscore."""

from __future__ import annotations

import re
from typing import Any

import pytest

import partyline
from partyline.client.line import Subscription
from partyline.client.socketio import Client, Connecting
from partyline.socketio.broadcast import Broadcast, RemoteSocket
from partyline.socketio.direct import Direct
from partyline.socketio.handshake import Handshake
from partyline.socketio.journal import Entry
from tests.tools import ROOT

SOCKETIO, ENGINEIO = "reference/socketio.md", "howto/engineio.md"
CLIENT, LINE = "howto/socketio-client.md", "howto/python-client.md"


def code(page: str) -> str:
    """What a page shows as code, in its sentences and in its blocks."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    return "\n".join(
        re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    )


@pytest.mark.parametrize(
    ("held", "page"),
    [
        (partyline.SocketIO, SOCKETIO),
        (partyline.Namespace, SOCKETIO),
        (partyline.Socket, SOCKETIO),
        (Broadcast, SOCKETIO),
        (Direct, SOCKETIO),
        (RemoteSocket, SOCKETIO),
        (Handshake, SOCKETIO),
        (Entry, SOCKETIO),
        (partyline.EngineIO, ENGINEIO),
        (Client, CLIENT),
        (Connecting, CLIENT),
        (partyline.Line, LINE),
        (Subscription, LINE),
    ],
)
def test_public_names_are_documented(held: type[Any], page: str) -> None:
    """A class has no public name that its page does not show."""
    names = [name for name in dir(held) if not name.startswith("_")]
    assert names
    shown = code(page)
    assert [name for name in names if not re.search(rf"\b{name}\b", shown)] == []
