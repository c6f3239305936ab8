"""Several nodes in one process: whatever is done to an audience reaches all of it, wherever its sockets are."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from partyline import CallTimeout, ConfigError, InvalidValue, Socket, SocketIO
from partyline.socketio import nodes as nodes_module
from partyline.socketio.broadcast import RemoteSocket
from partyline.testing import MemoryCluster
from partyline.testing.cluster import MemoryAdapter
from tests.server.conftest import Run
from tests.server.peers import WebSocketPeer, connected, websocket
from tests.server.servers import eventually, partyline_server

PATH = "/socket.io/?EIO=4&transport=websocket"


class Colour(enum.Enum):
    RED = "red"


class Node:
    """One server of the cluster."""

    def __init__(self, io: SocketIO, url: str, adapter: MemoryAdapter) -> None:
        self.io = io
        self.url = url
        self.adapter = adapter


class Client:
    """A client that sends what it is told."""

    def __init__(self, peer: WebSocketPeer, id: str) -> None:  # noqa: A002 - the protocol's word
        self.peer = peer
        self.id = id

    async def event(self) -> list[Any]:
        """The next event's name and arguments."""
        text = await self.peer.text()
        assert text.startswith("42"), text
        return json.loads(text[text.index("[") :])  # type: ignore[no-any-return]

    async def answer(self, *values: Any) -> None:
        """Acknowledge the next event with its id."""
        text = await self.peer.text()
        number = text[2 : text.index("[")]
        await self.peer.say(f"43{number}{json.dumps(values)}")


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[Node]]:
    """Nodes that know each other. A client's auth may name a room."""
    cluster = MemoryCluster()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            adapter = cluster.adapter()
            io = SocketIO(adapter=adapter, nodes_timeout=0.3)

            @io.on_connect
            def enter(socket: Socket, auth: dict[str, Any]) -> None:
                socket.join(*auth.get("rooms", ()))
                socket.data["name"] = auth.get("name", "")

            _, url = await stack.enter_async_context(partyline_server(extras=[io]))
            found.append(Node(io, url, adapter))
        for node in found:
            await eventually(lambda node=node: len(others(node)) == count - 1, "the nodes know each other")
        yield found


def others(node: Node) -> list[str]:
    assert node.io._nodes is not None
    return node.io._nodes.others


@contextlib.asynccontextmanager
async def client(node: Node, *rooms: str, name: str = "") -> AsyncIterator[Client]:
    async with connected(node.url) as peer:
        socket = await websocket(peer, PATH)
        await socket.text()
        await socket.say("40" + json.dumps({"rooms": rooms, "name": name}))
        yield Client(socket, json.loads((await socket.text())[2:])["sid"])


def test_an_event_reaches_a_room_on_all_nodes(run: Run) -> None:
    """An event to a room reaches its members on every node, each once, and nobody else; excluded ones do not get it,
    and a local one stays local."""

    async def main() -> None:
        async with (
            nodes(3) as (one, two, three),
            client(one, "a") as first,
            client(two, "a", "b") as second,
            client(three, "b") as third,
        ):
            two.io.to("a").to("b").emit("said", {"n": 1}, b"\x01".hex())
            two.io.to("a").except_("b").emit("first only")
            two.io.to("a").local.emit("here")
            two.io.emit("end")
            assert [await first.event() for _ in range(3)] == [["said", {"n": 1}, "01"], ["first only"], ["end"]]
            assert [await second.event() for _ in range(3)] == [["said", {"n": 1}, "01"], ["here"], ["end"]]
            assert [await third.event() for _ in range(2)] == [["said", {"n": 1}, "01"], ["end"]]

    run(main())


def test_binary_crosses_nodes(run: Run) -> None:
    """Nested bytes are the same bytes on the other node."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(two) as far:
            one.io.emit("file", {"part": b"\x00\xff"})
            assert await far.peer.text() == '451-["file",{"part":{"_placeholder":true,"num":0}}]'
            assert await far.peer.next() == b"\x00\xff"

    run(main())


def test_an_answer_that_cannot_travel(run: Run) -> None:
    """A client whose answer has no form between nodes counts as missing, at once, and its connection stays."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(two) as far, client(two) as further:
            calling = asyncio.create_task(one.io.call("how many?", timeout=60.0))
            await far.answer(2**70)
            await further.answer(2)
            with pytest.raises(CallTimeout) as caught:
                await calling
            assert (caught.value.answers, caught.value.missing) == ((2,), (far.id,))
            two.io.emit("still")
            assert await far.event() == ["still"]

    run(main())


def test_a_broadcast_gathers_answers_from_all_nodes(run: Run) -> None:
    """`call` returns when everybody on every node has answered, with the values in the order of arrival."""

    async def main() -> None:
        async with nodes(3) as (one, two, _), client(one) as near, client(two) as far, client(two) as further:
            calling = asyncio.create_task(one.io.call("how many?", timeout=5.0))
            await near.answer(1)
            await far.answer(2)
            await further.answer(3, 4)
            assert sorted(await calling, key=str) == [(3, 4), 1, 2]

    run(main())


def test_a_broadcast_names_who_is_missing(run: Run) -> None:
    """Clients that leave or stay silent, on any node, are reported as missing, with the answers so far."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(one) as near, client(two) as silent:
            async with client(two) as leaving:
                calling = asyncio.create_task(one.io.call("hello?", timeout=0.3))
                await near.answer("yes")
                await leaving.peer.text()
            with pytest.raises(CallTimeout) as caught:
                await calling
            assert caught.value.answers == ("yes",)
            assert set(caught.value.missing) == {silent.id, leaving.id}

    run(main())


def test_sockets_of_all_nodes(run: Run) -> None:
    """`fetch_sockets` finds the sockets of every node with rooms and data, those of a room, or local ones."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(one, "a", name="ann") as near, client(two, "a", name="bob") as far:
            found = {socket.id: (socket.rooms, socket.data) for socket in await one.io.fetch_sockets()}
            assert found == {
                near.id: ({"a", near.id}, {"name": "ann"}),
                far.id: ({"a", far.id}, {"name": "bob"}),
            }
            assert [socket.id for socket in await one.io.except_(near.id).fetch_sockets("a")] == [far.id]
            assert [socket.id for socket in await one.io.local.fetch_sockets()] == [near.id]

    run(main())


@pytest.mark.parametrize("value", [object(), {1, object()}, 2**70])
def test_data_that_cannot_travel(run: Run, caplog: pytest.LogCaptureFixture, value: Any) -> None:
    """A socket whose data cannot be encoded is shown to other nodes without it, and the log names the socket and the
    place; the other sockets of its node are shown whole, and nobody waits in vain."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(two, name="bob") as fine, client(two) as odd:
            two.io.sockets[odd.id].data["session"] = {"thing": value}
            found = {socket.id: socket.data for socket in await one.io.fetch_sockets()}
            assert found == {fine.id: {"name": "bob"}, odd.id: {}}
            (record,) = [one for one in caplog.records if "without its data" in str(one.__dict__)]
            assert odd.id in str(record.__dict__)
            assert "data['session']['thing']" in str(record.__dict__).replace("\\", "")

    run(main())


def test_sockets_are_moved_and_disconnected_on_all_nodes(run: Run) -> None:
    """Joins, leaves and disconnects reach an audience on every node; a single remote socket can be addressed, too."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(one, "a") as near, client(two, "a") as far:
            one.io.to("a").sockets_join("b", "c")
            one.io.to("a").sockets_leave("a")
            (remote,) = [socket for socket in await one.io.fetch_sockets("b", "c") if socket.id == far.id]
            assert remote.rooms == {"b", "c", far.id}
            remote.emit("you alone")
            assert await far.event() == ["you alone"]
            remote.leave("b")
            one.io.to("b").emit("near alone")
            assert await near.event() == ["near alone"]
            remote.disconnect()
            assert await far.peer.text() == "41"
            one.io.disconnect_sockets(close=True)
            assert await near.peer.text() == "41"
            await near.peer.until_close()

    run(main())


def test_a_socket_of_another_node_is_that_socket(run: Run) -> None:
    """What is done to a socket found on another node is done to it, though it left the room of its id, and to nobody
    who joined that room, on any node."""

    async def main() -> None:
        async with (
            nodes(3) as (one, two, three),
            client(two) as far,
            client(one, far.id) as near,
            client(two, far.id) as beside,
            client(three, far.id) as further,
        ):
            sockets = {**one.io.sockets, **two.io.sockets, **three.io.sockets}
            sockets[far.id].leave(far.id)
            (remote,) = [socket for socket in await one.io.fetch_sockets() if socket.id == far.id]
            remote.emit("you alone")
            assert await far.event() == ["you alone"]
            remote.join("b", "c")
            remote.leave("b")
            (remote,) = await one.io.fetch_sockets("c")
            assert (remote.id, remote.rooms) == (far.id, {"c"})
            assert await one.io.fetch_sockets("b") == []
            remote.disconnect()
            assert await far.peer.text() == "41"
            one.io.emit("end")
            for other in (near, beside, further):
                assert await other.event() == ["end"]
                assert set(sockets[other.id].rooms) == {other.id, far.id}

    run(main())


def test_the_room_of_a_sockets_id_is_on_all_nodes(run: Run) -> None:
    """The id of a socket is a room as any other: whatever is done to it reaches its members on other nodes, too."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(one) as near, client(two, near.id) as far:
            room = one.io.to(near.id)
            room.emit("hello")
            room.volatile.emit("now")
            room.local.emit("here")
            room.emit("end")
            assert [await far.event() for _ in range(3)] == [["hello"], ["now"], ["end"]]
            assert [await near.event() for _ in range(4)] == [["hello"], ["now"], ["here"], ["end"]]
            assert {one.id for one in await room.fetch_sockets()} == {near.id, far.id}
            room.sockets_join("more")
            await eventually(lambda: "more" in two.io.sockets[far.id].rooms, "the other one has joined")
            one.io.sockets[near.id].emit("to you alone")
            assert await near.event() == ["to you alone"]
            room.disconnect_sockets()
            assert [await one.peer.text() for one in (near, far)] == ["41", "41"]

    run(main())


def test_whom_a_socket_leaves_out_on_other_nodes(run: Run) -> None:
    """A socket's broadcast reaches whoever joined a room of its name on another node."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(one) as near, client(two, near.id) as far:
            socket = one.io.sockets[near.id]
            socket.broadcast.emit("hello")
            assert await far.event() == ["hello"]
            asked = asyncio.create_task(socket.broadcast.call("how many?", timeout=5.0))
            await far.answer(1)
            assert await asked == [1]
            assert [one.id for one in await socket.broadcast.fetch_sockets()] == [far.id]

    run(main())


def test_nodes_of_other_versions(run: Run) -> None:
    """What a node of an older version says, without the later fields, is done by rooms; fields that a later version
    has added at the end are passed over, kinds that it has added are logged; and an older node that knows no `only`
    finds the room of the socket's id where it looks for rooms."""

    async def main() -> None:
        async with nodes(1) as (one,), client(one, "a") as first, client(one) as second:
            heard: list[Any] = []
            assert one.io._nodes is not None
            node = one.io._nodes._cluster.node
            stranger = one.adapter._cluster.adapter()

            def received(data: bytes) -> None:
                sender, _, said = msgspec.msgpack.decode(data)
                if sender == node and said[0] in (1, 7, 8):
                    heard.append(said)

            await stranger.start(received)

            def say(*said: Any) -> None:
                stranger.publish(msgspec.msgpack.encode(["0" * 16, "", said]))

            say(1, "/", "old", [], ["a"], [])
            say(1, "/", "old and volatile", [], ["a"], [], True)
            say(1, "/", "new", [], [first.id], [], False, None, 0.0, first.id, "later", 7)
            say(99, "/", "what is this?")
            say(7, "/", [second.id], [], ["b"], [])
            say(7, "/", [first.id], [], ["c"], [], first.id, "later")
            say(8, "/", ["b"], [], False)
            assert [await first.event() for _ in range(3)] == [["old"], ["old and volatile"], ["new"]]
            assert await second.peer.text() == "41"
            assert set(one.io.sockets[first.id].rooms) == {first.id, "a", "c"}
            away = RemoteSocket(one.io, "someone", (), {})
            away.emit("x")
            away.join("y")
            away.disconnect()
            await eventually(lambda: len(heard) == 3, "all are heard")
            assert [said[4 if said[0] == 1 else 2] for said in heard] == [["someone"]] * 3

    run(main())


def test_servers_talk_among_themselves(run: Run) -> None:
    """`server_side_emit` reaches the other servers, not this one; `server_side_call` returns what each answers, and a
    handler that fails answers with that."""

    async def main() -> None:
        async with nodes(3) as (one, two, three):
            heard: list[Any] = []
            for number, node in enumerate((one, two, three)):

                @node.io.on_server_side("count")
                async def count(x: int, number: int = number) -> int:
                    heard.append(number)
                    await asyncio.sleep(0)
                    if x < 0:
                        raise RuntimeError("as asked")
                    return x + number

            assert sorted(await one.io.server_side_call("count", 10)) == [11, 12]
            assert sorted(heard) == [1, 2]
            one.io.server_side_emit("count", 1)
            await eventually(lambda: sorted(heard) == [1, 1, 2, 2], "the others hear it")
            assert await one.io.server_side_call("count", -1) == [{"error": "internal"}] * 2
            assert await one.io.server_side_call("nobody hears") == [None, None]

    run(main())


class Thing:
    def __repr__(self) -> str:
        return "a thing"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({1}, [1]),
        ((1, "a"), [1, "a"]),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00Z"),
        ({1: {None: Colour.RED}}, {"1": {"null": "red"}}),
        (b"\x00", b"\x00"),
        ("half \ud83d", "half \ufffd"),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_values_between_servers_are_what_clients_get(run: Run, value: Any, written: Any) -> None:
    """Other servers, and clients of other nodes, get an application's values as clients of this node do; so does
    whoever asked another server."""

    async def main() -> None:
        async with nodes(2) as (one, two), client(two) as far:
            heard: list[Any] = []

            @two.io.on_server_side("take")
            def take(*arguments: Any) -> Any:
                heard.append(arguments)
                return value

            assert await one.io.server_side_call("take", value, {"in": value}) == [written]
            one.io.server_side_emit("take", [value])
            await eventually(lambda: len(heard) == 2, "both are heard")
            assert heard == [(written, {"in": written}), ([written],)]
            if not isinstance(value, bytes):
                one.io.emit("take", value)
                assert await far.event() == ["take", written]
                asked = asyncio.create_task(one.io.call("take", value, timeout=5.0))
                await far.answer(7)
                assert await asked == [7]

    run(main())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Thing(), r"argument 2\['in'\]\[1\] cannot be sent: it is a Thing"),
        (2**70, r"argument 2\['in'\]\[1\] cannot be sent: it is a whole number of more than 64 bits"),
        ({b"x": 1}, r"argument 2\['in'\]\[1\] cannot be sent: it has a key that is a bytes"),
    ],
)
def test_values_that_cannot_go_to_servers(run: Run, caplog: pytest.LogCaptureFixture, value: Any, reason: str) -> None:
    """A value without a form is refused with its place, by all that goes to other nodes, and no question stays open;
    as an answer it is an internal error there and a line in the log here."""

    async def main() -> None:
        async with nodes(2) as (one, two):
            two.io.on_server_side("take")(lambda *_: value)
            arguments = ("take", 1, {"in": [0, value]})
            with pytest.raises(InvalidValue, match=reason):
                one.io.server_side_emit(*arguments)
            with pytest.raises(InvalidValue, match=reason):
                await one.io.server_side_call(*arguments)
            with pytest.raises(InvalidValue, match=reason):
                one.io.emit(*arguments)
            with pytest.raises(InvalidValue, match=reason):
                await one.io.call(*arguments)
            assert one.io._nodes is not None
            assert one.io._nodes._cluster._questions == {}
            assert await one.io.server_side_call("take") == [{"error": "internal"}]
            assert any("an answer to a server cannot be sent" in str(record.__dict__) for record in caplog.records)

    run(main())


@pytest.mark.parametrize("name", ["connect", "disconnecting", 7])
def test_names_between_servers(run: Run, name: Any) -> None:
    """The name of an event between servers is held to what that of an event is held to."""

    async def main() -> None:
        async with nodes(2) as (one, _):
            with pytest.raises(InvalidValue, match=r"event|keeps for itself"):
                one.io.server_side_emit(name)
            with pytest.raises(InvalidValue, match=r"event|keeps for itself"):
                await one.io.server_side_call(name)

    run(main())


def test_a_node_that_is_cut_off_is_named(run: Run) -> None:
    """A question to a node that does not answer ends in time, with the others' answers and that node's name."""

    async def main() -> None:
        async with nodes(3) as (one, two, three), client(two) as far:
            three.adapter.cut = True
            with pytest.raises(CallTimeout) as caught:
                await one.io.fetch_sockets()
            assert len(caught.value.missing) == 1
            assert caught.value.missing[0] in others(one)
            one.io.emit("still")
            assert await far.event() == ["still"]

    run(main())


def test_a_node_that_leaves_is_not_waited_for(run: Run) -> None:
    """A stopped node is no longer asked, and questions return at once."""

    async def main() -> None:
        cluster = MemoryCluster()
        ios = [SocketIO(adapter=cluster.adapter()) for _ in range(2)]
        async with partyline_server(extras=[ios[0]]):
            assert ios[0]._nodes is not None
            async with partyline_server(extras=[ios[1]]):
                await eventually(lambda: ios[0]._nodes.others, "the other one is there")  # type: ignore[union-attr]
            await eventually(lambda: not ios[0]._nodes.others, "the other one is gone")  # type: ignore[union-attr]
            assert await ios[0].fetch_sockets() == []

    run(main())


def test_recovery_wants_one_log(run: Run) -> None:
    """Nodes with separate logs cannot recover each other's sessions, which is refused and not half done."""
    with pytest.raises(ConfigError, match="recovery_window"):
        SocketIO(adapter=MemoryCluster().adapter(), recovery_window=120.0)


def test_questions_of_other_nodes_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another node wants beyond what may be unanswered is not begun, and counted; what is answered makes room."""
    monkeypatch.setattr(nodes_module, "_MOST_WORK", 2)

    async def main() -> None:
        async with nodes(2) as (one, two):
            go_on = asyncio.Event()
            begun: list[int] = []

            @two.io.on_server_side("work")
            async def work(number: int) -> None:
                begun.append(number)
                await go_on.wait()

            for number in range(3):
                one.io.server_side_emit("work", number)
            await eventually(lambda: two.io.counters.limits.get("max_node_questions") == 1, "one is not begun")
            assert begun == [0, 1]
            go_on.set()
            await eventually(lambda: not two.io._tasks, "they are done")
            one.io.server_side_emit("work", 3)
            await eventually(lambda: begun == [0, 1, 3], "there is room again")

    run(main())
