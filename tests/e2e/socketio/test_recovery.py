"""Recovery with the npm client of version 4, over each transport: on a broken connection, and over a killed server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tools

from .kitchen import ON_NODE, WAYS, clients, kitchen

every_way = pytest.mark.parametrize("way", WAYS)
forgets = pytest.mark.skipif(ON_NODE, reason="Node's server forgets its sessions with its process")


def events(said: list[dict[str, Any]]) -> list[Any]:
    """The values of the events among it, without their positions, which are their last arguments."""
    return [one["values"][:-1] for one in said if "event" in one]


class Tunnel:
    """Carries connections to a port. Those that it forgets stay open at the server, without a byte more; it takes no
    others until it is `open` again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._carrying: set[asyncio.Task[None]] = set()
        self._forgotten: list[Any] = []
        self.url = ""
        self.open = True

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Tunnel]:
        one = cls(port)
        server = await asyncio.start_server(one._carry, "127.0.0.1", 0)
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield one
        finally:
            server.close()
            one.forget()
            for writer in one._forgotten:
                writer.transport.abort()

    def forget(self) -> None:
        self.open = False
        for task in self._carrying:
            task.cancel()

    async def _carry(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if not self.open:
            back.transport.abort()
            return
        answers, forth = await asyncio.open_connection("127.0.0.1", self._port)
        self._forgotten += [back, forth]
        tasks = {asyncio.create_task(_copy(client, forth)), asyncio.create_task(_copy(answers, back))}
        self._carrying |= tasks
        await asyncio.wait(tasks)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@every_way
def test_a_broken_connection(way: str) -> None:
    """Events that were sent while the connection was broken arrive in order, before the client is connected again, with
    the same id and rooms; it knows that it has recovered."""
    tools.program("node")

    async def main() -> None:
        with kitchen("recovery") as server:
            async with clients(server.url, f"4 {way}", "4 websocket") as (one, two):
                assert await one.ask("join", "r") == ["r"]
                two.emit("room-send", "r", "before")
                assert events([await one.hears()]) == [["r", "before"]]
                one.tell("leave")
                await one.until("disconnected")
                for number in range(20):
                    two.emit("room-send", "r", number)
                    two.emit("room-send", "elsewhere", number)
                await two.ask("whoami")
                one.tell("return")
                missed = await one.until("connected")
                assert events(missed) == [["r", number] for number in range(20)]
                assert missed[-1] == {"connected": one.id, "recovered": True}
                assert await one.ask("whoami") == [{"id": one.id, "rooms": ["r"], "recovered": True}]

    asyncio.run(main())


@every_way
def test_what_is_missed_in_a_namespace(way: str) -> None:
    """In a namespace with a middleware, too: binary, broadcasts, what went to the others of a room, but nothing of
    another namespace."""
    tools.program("node")
    secret = {"namespace": "/private", "auth": {"token": "secret"}}

    async def main() -> None:
        with kitchen("recovery") as server:
            async with (
                clients(server.url, f"4 {way}", "3 polling", **secret) as (one, two),
                clients(server.url, "4 websocket") as (elsewhere,),
            ):
                await one.ask("join", "r")
                await elsewhere.ask("join", "r")
                one.tell("drop")
                await one.until("disconnected")
                two.emit("room-send-others", "r", {"bytes": "00ff"}, [{"deep": {"bytes": "80"}}])
                elsewhere.emit("room-send", "r", "not for it")
                elsewhere.emit("broadcast", "not for it")
                two.emit("broadcast", "for all", {"bytes": ""})
                heard = await one.until(
                    "connected"
                )  # it comes back by itself: some may come before it is back, some after
                assert heard[-1] == {"connected": one.id, "recovered": True}
                while len(events(heard)) < 2:
                    heard.append(await one.hears())
                assert events(heard) == [
                    ["r", {"bytes": "00ff"}, [{"deep": {"bytes": "80"}}]],
                    ["for all", {"bytes": ""}],
                ]
                one.emit("message", "the last")
                assert events([await one.hears()]) == [["the last"]]

    asyncio.run(main())


@every_way
def test_no_way_back_from_a_disconnect(way: str) -> None:
    """A socket that the server has disconnected comes back as a new one, without its rooms."""
    tools.program("node")

    async def main() -> None:
        with kitchen("recovery") as server:
            async with clients(server.url, f"4 {way}") as (one,):
                await one.ask("join", "r")
                one.emit("bye", False)
                assert await one.hears() == {"disconnected": "io server disconnect"}
                one.tell("return")
                back = await one.hears()
                assert back["recovered"] is False
                assert back["connected"] != one.id
                assert (await one.ask("whoami"))[0]["rooms"] == []

    asyncio.run(main())


@pytest.mark.skipif(ON_NODE, reason="Node's server lets nobody recover while it takes the old connection for alive")
@pytest.mark.parametrize("way", ["websocket", "upgrade"])  # on polling the client's last POST says that it goes
def test_a_connection_that_nobody_closes(way: str) -> None:
    """A client whose network is another one now comes back before the server can notice that its old connection is
    dead, and goes on as who it was."""
    tools.program("node")

    async def main() -> None:
        with kitchen("recovery") as server:
            async with (
                Tunnel.to(server.port) as tunnel,
                clients(tunnel.url, f"4 {way}") as (one,),
                clients(server.url, "4 websocket") as (two,),
            ):
                await one.ask("join", "r")
                tunnel.forget()
                one.tell("leave")
                await one.until("disconnected")
                two.emit("room-send", "r", "missed")
                assert await two.ask("room-size", "r") == [1]  # that is the old connection
                tunnel.open = True
                one.tell("return")
                missed = await one.until("connected")
                assert missed[-1] == {"connected": one.id, "recovered": True}
                assert events(missed) == [["r", "missed"]]
                assert await two.ask("room-size", "r") == [1]
                two.emit("room-send", "r", "new")
                assert events([await one.hears()]) == [["r", "new"]]

    asyncio.run(main())


def test_a_frozen_server() -> None:
    """While the server is frozen its clients notice and try again; afterwards those of version 4 are who they were."""
    tools.program("node")

    async def main() -> None:
        with kitchen("recovery") as server:
            kinds = ["4 polling", "4 websocket", "4 upgrade", "3 polling", "3 websocket", "2 websocket"]
            async with clients(server.url, *kinds) as all_of_them:
                for client in all_of_them:
                    await client.ask("join", "r")
                with server.frozen():
                    for client in all_of_them:
                        assert await client.hears() == {"disconnected": "ping timeout"}
                for client in all_of_them:
                    back = (await client.until("connected"))[-1]
                    assert (back["connected"] == client.id) == bool(back["recovered"]) == client.kind.startswith("4")
                    rooms = (await client.ask("whoami"))[0]["rooms"]
                    assert rooms == (["r"] if back["recovered"] else [])
                assert await all_of_them[-1].ask("room-size", "r") == [3]

    asyncio.run(main())


@forgets
@every_way
def test_a_killed_server(way: str, tmp_path: Path) -> None:
    """Kill the server with SIGKILL and start it again: the clients come back as who they were, and one that was away
    gets every event that another one has seen, once and in order."""
    tools.program("node")
    db = tmp_path / "partyline.db"

    async def main() -> None:
        with kitchen("recovery", db=db) as server:
            async with clients(server.url, f"4 {way}", "4 upgrade") as (one, two):
                for client in (one, two):
                    await client.ask("join", "r")
                two.emit("room-send", "r", "first")
                for client in (one, two):
                    assert events([await client.hears()]) == [["r", "first"]]
                one.tell("leave")
                await one.until("disconnected")
                for number in range(50):
                    two.emit("room-send", "r", number, {"bytes": f"{number:02x}"})
                seen = [await two.hears() for _ in range(50)]
                server.kill()
                assert "disconnected" in await two.hears()

                with kitchen("recovery", db=db, port=server.port) as again:
                    assert await two.hears() == {"connected": two.id, "recovered": True}
                    one.tell("return")
                    missed = await one.until("connected")
                    assert missed[-1] == {"connected": one.id, "recovered": True}
                    assert missed[:-1] == seen
                    assert await one.ask("whoami") == [{"id": one.id, "rooms": ["r"], "recovered": True}]
                    one.emit("room-send", "r", "new")
                    for client in (one, two):
                        assert events([await client.hears()]) == [["r", "new"]]
                    assert again.process.poll() is None

    asyncio.run(main())
