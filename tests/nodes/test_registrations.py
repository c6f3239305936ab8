"""Registrations, revocations and polls of several servers with one log: any of them takes a client of any other."""

from __future__ import annotations

from partyline import SocketIO
from partyline.config import ApiKey
from partyline.nodes.forwarding import Forwarding
from partyline.trust.keys import key_hash
from tests.calls import call
from tests.engineio.clients import Polling
from tests.relay.classic.test_resuming import client as resuming
from tests.relay.classic.test_resuming import path_of, publish
from tests.relay.test_tokens import KEYS, ROOT_KEY, ask, refused, revoke
from tests.relay.v1.test_websocket import line
from tests.server.peers import connected, upgrade, websocket
from tests.server.servers import eventually, registered
from tests.socketio.clients import BASE, PollingClient, looped
from tests.tokens import token

from .companies import Node, companies


def identifier(path: str) -> str:
    return path.rpartition("/")[2]


def here(path: str, node: Node) -> bool:
    """Whether a node has a registration."""
    return node.partyline.registry.has(identifier(path))


@looped
async def test_any_node_takes_a_registration() -> None:
    """A client registers on one node and connects to another: it gets what is published on either, and one node has
    its registration."""
    async with companies(2) as (one, two):
        path = await registered(one.url, 1, "cats")
        async with connected(two.url) as peer:
            client = await websocket(peer, path)
            for node in (one, two):
                await publish(node.url, "cats", "meow")
                assert await client.text() == "meow"
        assert not here(path, one)
        assert here(path, two)


@looped
async def test_a_connection_elsewhere_is_replaced() -> None:
    """If a client connects to another node while the first one still has its connection, that is replaced (4000)."""
    async with companies(2) as (one, two):
        path = await registered(one.url, 1, "cats")
        async with connected(one.url) as earlier, connected(two.url) as later:
            before = await websocket(earlier, path)
            after = await websocket(later, path)
            assert (await before.until_close())[1].code == 4000
            await publish(one.url, "cats", "meow")
            assert await after.text() == "meow"


@looped
async def test_resuming_on_another_node() -> None:
    """A registration with resume goes on on another node after what its client has confirmed, each message once."""
    async with companies(2) as (one, two):
        path = await path_of(one.url, topics=["cats"])
        async with resuming(one.url, path) as client:
            await publish(two.url, "cats", "1", "2")
            assert await client.texts(2) == ["1", "2"]
            await client.confirm(2)
        await publish(two.url, "cats", "3")
        async with resuming(two.url, path) as client:
            assert await client.texts(1) == ["3"]
            await publish(one.url, "cats", "4")
            assert await client.texts(1) == ["4"]


@looped
async def test_a_registration_outlives_its_node() -> None:
    """The registration of a node that has died without a word is taken over with what was written."""
    async with companies(2) as (one, two):
        path = await path_of(one.url, topics=["cats"])
        await publish(two.url, "cats", "1")
        one.bus.cut = True
        two.seat.company.cluster.lose(one.seat.company.node)
        async with resuming(two.url, path) as client:
            assert await client.texts(1) == ["1"]


@looped
async def test_topics_are_changed_over_any_node() -> None:
    """Topics are added and removed, and a registration is ended, over whichever node is asked; its connection stays
    where it is."""
    async with companies(2) as (one, two):
        path = await registered(one.url, 1, "cats")
        async with connected(one.url) as peer:
            client = await websocket(peer, path)
            change = {"topic": "dogs", "client_id": identifier(path)}
            assert await call(f"{two.url}/add_topic", "POST", change) == (200, {"topics": ["cats", "dogs"]})
            await publish(two.url, "dogs", "woof")
            assert await client.text() == "woof"
            assert await call(f"{two.url}/remove_topic", "DELETE", change) == (200, {"topics": ["cats"]})
            assert (await call(f"{two.url}/register/{identifier(path)}", "DELETE"))[0] == 200
            assert (await client.until_close())[1].code == 4001
        for node in (one, two):
            assert (await call(f"{node.url}/register/{identifier(path)}", "DELETE"))[0] == 404
            status, error = await call(f"{node.url}/add_topic", "POST", {**change, "client_id": "0" * 32})
            assert (status, error["error"]["code"]) == (404, "unknown_connection")


@looped
async def test_an_unknown_registration_is_refused() -> None:
    """An id that no node knows is 404 before any upgrade, on each node."""
    async with companies(2) as nodes:
        for node in nodes:
            async with connected(node.url) as peer:
                await peer.send(upgrade("/ws/" + "0" * 32))
                assert (await peer.answer()).status == 404


@looped
async def test_a_revocation_holds_on_all_nodes() -> None:
    """A token that is revoked on one node is refused on all, and its connections and registrations there end."""
    root = ApiKey(key_hash(ROOT_KEY), admin=True)
    async with companies(2, api_keys=(root,), jwt_keys=KEYS, auth_failures_per_minute=0) as (one, two):
        own = token("ann", jti="t1")
        status, answer = await ask(two.url, "POST", "/register", {"user_id": "ann", "topic": "cats"}, own)
        assert status == 200
        async with line(two.url, additional_headers={"Authorization": f"Bearer {own}"}) as client:
            await client.ask("subscribe", topic="cats")
            await revoke(one.url, jti="t1")
            await eventually(lambda: not two.partyline.hub.rooms.members("cats"), "the connection ends")
        assert len(two.partyline.registry) == 0, answer
        for node in (one, two):
            assert await refused(node.url, additional_headers={"Authorization": f"Bearer {own}"}) == 401


@looped
async def test_polling_over_any_node() -> None:
    """Each request of a session that polls may reach another node: the session's own node answers. If that is gone, the
    session is unknown."""

    def make() -> SocketIO:
        io = SocketIO()
        io.on("echo", lambda socket, *values: values)
        return io

    async with companies(2, make) as (one, two):
        async with Polling.at(one.url, base=BASE) as polling, connected(two.url) as gets, connected(two.url) as posts:
            ways = (polling.gets, polling.posts), (gets, posts)
            client = PollingClient(polling, 4)
            await client.enter()
            for number in range(6):
                polling.gets, polling.posts = ways[number % 2][0], ways[(number // 2) % 2][1]
                assert await client.ask("echo", number, number=number) == [number]
            polling.gets, polling.posts = gets, posts
            await polling.ask()  # it waits there
            one.io.emit("x", "late")
            assert b"late" in (await polling.gets.answer()).body
        one.bus.cut = True
        two.seat.company.cluster.lose(one.seat.company.node)
        status, error = await call(f"{two.url}/socket.io/?EIO=4&transport=polling&sid={polling.sid}")
        assert (status, error["code"]) == (400, 1)


@looped
async def test_a_poll_that_is_given_up_ends_its_session() -> None:
    """A client that aborts a poll over another node is gone, as it is over its own."""
    async with companies(2) as (one, two), Polling.at(one.url, base=BASE) as polling, connected(two.url) as gets:
        await PollingClient(polling, 4).enter()
        polling.gets = gets
        await polling.ask()
        forwarding = one.seat.answering
        assert isinstance(forwarding, Forwarding)
        await eventually(lambda: forwarding._serving, "the poll has come to the session's node")
        gets.transport.abort()
        await eventually(lambda: not one.io.engine.connections, "the session is over")
