"""Presence, topics and connections of several servers with one log."""

from __future__ import annotations

from tests.calls import call
from tests.relay.v1.test_websocket import line
from tests.server.peers import connected, websocket
from tests.server.servers import eventually, registered
from tests.socketio.clients import looped

from .companies import companies


@looped
async def test_watchers_hear_of_users_on_all_nodes() -> None:
    """A watcher is told when a user's first connection on any node comes and when the last one leaves, and who is there
    already."""
    async with companies(3) as (one, two, three), line(one.url) as watcher:
        ann, bob = await registered(two.url, "ann", "cats"), await registered(three.url, "bob", "cats")
        async with connected(two.url) as first:
            await websocket(first, ann)
            await watcher.ask("subscribe", topic="cats", presence=True)
            await eventually(lambda: one.partyline.hub.presence.users("cats") == ["ann"], "who is there is known")
            assert (await watcher.next())["user"] == "ann"
            async with connected(three.url) as second, connected(one.url) as third:
                await websocket(second, bob)
                joined = await watcher.next()
                assert (joined["type"], joined["user"]) == ("join", "bob")
                again = await registered(one.url, "bob", "cats")
                await websocket(third, again)
                assert (await watcher.ask("presence", topic="cats"))["users"] == ["ann", "bob"]
            left = await watcher.next()
            assert (left["type"], left["user"]) == ("leave", "bob")
        left = await watcher.next()
        assert (left["type"], left["user"]) == ("leave", "ann")


@looped
async def test_the_people_of_a_lost_node_are_gone_at_once() -> None:
    """When a node is gone, its users have left, but for those who are on another node, too."""
    async with companies(3) as (one, two, three), line(one.url) as watcher:
        await watcher.ask("subscribe", topic="cats", presence=True)
        async with connected(two.url) as first, connected(two.url) as second, connected(three.url) as third:
            for peer, node, user in ((first, two, "ann"), (second, two, "bob"), (third, three, "bob")):
                await websocket(peer, await registered(node.url, user, "cats"))
            await eventually(lambda: one.partyline.hub.presence.users("cats") == ["ann", "bob"], "both are known")
            seen = [await watcher.next() for _ in range(2)]
            assert {(frame["type"], frame["user"]) for frame in seen} == {("join", "ann"), ("join", "bob")}
            two.bus.cut = True
            one.seat.company.cluster.lose(two.bus.node)
            left = await watcher.next()
            assert (left["type"], left["user"]) == ("leave", "ann")
            assert one.partyline.hub.presence.users("cats") == ["bob"]


@looped
async def test_a_lost_change_is_made_good() -> None:
    """A change that the bus has lost is noticed by its number, and who is there is asked again."""
    async with companies(2) as (one, two), line(one.url) as watcher:
        await watcher.ask("subscribe", topic="cats", presence=True)
        await eventually(lambda: two.partyline.hub.presence._followed, "the other node follows")
        two.bus.cut = True
        async with connected(two.url) as first, connected(two.url) as second:
            await websocket(first, await registered(two.url, "ann", "cats"))
            await eventually(lambda: two.partyline.hub.presence.here("cats") == ["ann"], "it is there")
            two.bus.cut = False
            await websocket(second, await registered(two.url, "bob", "cats"))
            await eventually(lambda: one.partyline.hub.presence.users("cats") == ["ann", "bob"], "both are known")


@looped
async def test_only_watched_topics_travel() -> None:
    """A topic that nobody watches is followed by nobody, and no longer when its last watcher leaves."""
    async with companies(2) as (one, two):
        async with line(one.url) as watcher:
            await watcher.ask("subscribe", topic="cats", presence=True)
            await watcher.ask("subscribe", topic="dogs")
            await eventually(lambda: two.partyline.hub.presence._followed == {"cats"}, "cats are followed")
        await eventually(lambda: not two.partyline.hub.presence._followed, "cats are followed no more")
        assert not two.partyline.hub.presence._counts


@looped
async def test_lists_are_of_all_nodes() -> None:
    """Presence, topics and connections over HTTP are those of all nodes, a connection is closed over any of them, and
    an answer says which nodes are missing in it."""
    async with companies(2) as (one, two), connected(two.url) as peer:
        client = await websocket(peer, await registered(two.url, "ann", "cats"))
        assert await call(f"{one.url}/v1/topics/cats/presence") == (200, {"topic": "cats", "users": ["ann"]})
        assert await call(f"{one.url}/v1/topics") == (200, {"topics": [{"topic": "cats", "connections": 1}]})
        _, found = await call(f"{one.url}/v1/connections")
        (listed,) = found["connections"]
        assert (listed["user_id"], listed["topics"]) == ("ann", ["cats"])
        assert (await call(f"{one.url}/v1/connections/{listed['id']}", "DELETE"))[0] == 200
        assert (await client.until_close())[1].code == 4001
        assert (await call(f"{one.url}/v1/connections/{listed['id']}", "DELETE"))[0] == 404
        two.bus.cut = True
        _, partial = await call(f"{one.url}/v1/topics")
        assert partial == {"topics": [], "missing": [two.bus.node]}
