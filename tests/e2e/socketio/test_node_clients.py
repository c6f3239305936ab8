"""socket.io-client of the versions 2, 3 and 4, over each transport, with both parsers, against the kitchen sink."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tools

from .kitchen import ON_NODE, PACKAGES, Kitchen, kitchen

# The heartbeat is 1 + 1 s: beside other tests a client may not get its turn in time.
pytestmark = pytest.mark.alone

HERE = Path(__file__).parent
# A POST has 1,000,000 bytes, and binary in it is base64.
WAYS = {
    "polling": {"transports": ["polling"], "sizes": [1, 1_000, 700_000]},
    "websocket": {"transports": ["websocket"], "sizes": [1, 1_000, 900_000]},
    "upgrade": {"transports": ["polling", "websocket"], "sizes": [1, 1_000, 900_000]},
}
OLD, NEWER, NEWEST = VERSIONS = ("socket.io-client-2", "socket.io-client-3", "socket.io-client-4")
SCENARIOS = ["auth", "refused", "echo", "order", "acknowledgements", "digests", "rooms", "namespaces", "ends"]
SCENARIOS += ["silence", "reconnection"]
SILENCE = (1_500, 2_900)  # ms: heartbeat and answer of mode base; a client of version 3 or 4 gives up itself at 3,000


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Kitchen]]:
    tools.program("node")
    with kitchen("base") as base, kitchen("msgpack") as msgpack:
        yield {"json": base, "msgpack": msgpack}


@functools.cache
def told(url: str, version: str, parser: str) -> dict[str, Any]:
    """What one client has seen, by way and scenario."""
    modules = tools.node_packages("socketio", PACKAGES)
    scenarios = SCENARIOS + (["volatile", "impatience"] if version == NEWEST else [])
    asked: dict[str, Any] = {"url": url, "ways": WAYS, "scenarios": scenarios}
    if parser == "msgpack":
        asked["parser"] = "socket.io-msgpack-parser"
    command = [tools.program("node"), str(HERE / "client.cjs"), str(modules), version, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture(
    params=[
        pytest.param((version, way, parser), id=f"{version[-1]}-{way}-{parser}")
        for version in VERSIONS
        for way in WAYS
        for parser in ("json", "msgpack")
        if (parser, version) != ("msgpack", OLD)  # its parser is for 3 and 4
    ]
)
def combination(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    found: tuple[str, str, str] = request.param
    return found


def saw(servers: dict[str, Kitchen], combination: tuple[str, str, str], scenario: str) -> Any:
    version, way, parser = combination
    seen = told(servers[parser].url, version, parser)[way][scenario]
    assert not (isinstance(seen, dict) and "failed" in seen), seen["failed"]
    return seen


def test_connect_with_auth(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """The main namespace and another one are entered with what the client sends along, over the transport asked for."""
    seen = saw(servers, combination, "auth")
    old = combination[0] == OLD
    assert seen["main"] == ({} if old else {"a": "1"})  # version 2 does not ask for the main namespace
    assert seen["custom"] == {"token": "x"}
    assert seen["transport"] == ("polling" if combination[1] == "polling" else "websocket")


def test_refusals(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """A refusal has its message and data, an unknown namespace its own; the right token is let in."""
    seen = saw(servers, combination, "refused")
    if combination[0] == OLD:
        assert seen["message"] == {"code": 401}  # the data in place of the message, as Node answers version 2
        assert seen["unknown"] == "Invalid namespace"
    else:
        assert (seen["message"], seen["data"]) == ("not authorized", {"code": 401})
        assert (seen["unknown"], seen["let_in"]) == ("Invalid namespace", True)


def test_values_come_back(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """Numbers, texts, null, objects, and binary at depth and at the top come back as they were, in one event."""
    assert saw(servers, combination, "echo") == [
        1,
        "2",
        {"three": [4, {"five": {"bytes": "0102"}}]},
        {"bytes": "c3a9"},
        None,
        "é🎉",
    ]


def test_acknowledgements_both_ways(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """Values come back in acknowledgements, binary too; the server's questions are answered, or time out."""
    seen = saw(servers, combination, "acknowledgements")
    assert seen["values"] == [1, {"deep": [{"bytes": "6869"}]}]
    assert seen["answered"] == [[{"ok": True, "answer": [7]}], [{"ok": True, "answer": [7, 8]}]]
    assert seen["silent"] == [{"ok": False}]


def test_binary_of_every_size(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """From one byte to 900 kB (on polling 700 kB: base64 in a POST), both ways, by digest."""
    assert saw(servers, combination, "digests") == [True] * 4


def test_order(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """Of 400 events, some with two attachments, each comes back once and in order, across the upgrade too."""
    assert saw(servers, combination, "order") == {"came": 400, "wrong": []}


def test_rooms(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """To a room, to its others, to everybody else; sizes follow joins and leaves."""
    seen = saw(servers, combination, "rooms")
    assert seen["heard"] == [
        [0, True, "all"],
        [1, "broadcast", "everybody else"],
        [1, True, "all"],
        [1, True, "others"],
        [2, "broadcast", "everybody else"],
    ]
    assert seen["sizes"] == [2, 1]
    assert seen["own"]


def test_namespaces_of_one_connection(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """What ends one namespace leaves the other as it is, and it may be entered again; `bye` with true ends both. Their
    ids are not that of the connection."""
    seen = saw(servers, combination, "namespaces")
    assert (seen["still"], seen["public_ids"]) == (["still"], True)
    first, *others = seen["ends"]
    assert first == ["/custom", "io server disconnect"]
    assert sorted(name for name, _ in others) == ["/", "/custom"]


def test_disconnects(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """The client is told whether the server disconnected it or closed the connection, or it ended by itself."""
    first, second, third = saw(servers, combination, "ends")
    assert first == "io server disconnect"
    assert second in ("io server disconnect", "transport close")
    assert third == "io client disconnect"


def test_a_silent_client(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """A client whose heartbeat stops is closed by the server after interval and timeout, on every transport."""
    if ON_NODE and combination[:2] == (OLD, "upgrade"):
        pytest.skip("Node's server does not notice it")
    least, most = SILENCE
    seen = saw(servers, combination, "silence")
    assert least <= seen["most"]
    assert seen["least"] <= most
    assert seen["reason"] == "transport close"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parser", ["json", "msgpack"])
def test_volatile(servers: dict[str, Kitchen], way: str, parser: str) -> None:
    """A volatile event of the client arrives like any other."""
    assert saw(servers, (NEWEST, way, parser), "volatile") == ["now", {"bytes": "07"}]


@pytest.mark.alone
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parser", ["json", "msgpack"])
def test_impatience(servers: dict[str, Kitchen], way: str, parser: str) -> None:
    """Version 4 gives up an acknowledgement after its own timeout; an answer that comes late confuses nobody."""
    seen = saw(servers, (NEWEST, way, parser), "impatience")
    assert seen["error"] == "operation has timed out"
    assert seen["took"] < 450  # the server answers after 500 ms
    assert seen["late"] == "next"


def test_reconnection(servers: dict[str, Kitchen], combination: tuple[str, str, str]) -> None:
    """A client whose connection breaks comes back by itself and is let in again, with its auth."""
    seen = saw(servers, combination, "reconnection")
    assert seen == {"auth": {} if combination[0] == OLD else {"a": "1"}, "connected": True}
