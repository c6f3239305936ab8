"""Recovery with the npm client of version 4, over each transport: on a broken connection, and over a killed server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests import tools

from .kitchen import ON_NODE, Client, kitchen

WAYS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}
NEW = "socket.io-client-4"


def values(said: dict[str, Any]) -> list[Any]:
    """An event's values, without its position."""
    found: list[Any] = said["values"][:-1]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_connection(way: str) -> None:
    """Events that were sent while the connection was broken arrive in order, before the client is connected again, with
    the same id and rooms; it knows that it has recovered."""
    tools.program("node")

    async def main() -> None:
        with kitchen("recovery") as server:
            one, two = [await Client.start(server.url, NEW, WAYS[way]) for _ in range(2)]
            for client in (one, two):
                client.tell("connect", auth={})
            first = await one.hears()
            assert first["recovered"] is False
            await two.hears()
            assert await one.ask("join", "r") == ["r"]
            two.tell("emit", values=["room-send", "r", "before"])
            assert values(await one.hears()) == ["r", "before"]
            one.tell("drop")
            while "disconnected" not in await one.hears():
                pass
            for number in range(20):
                two.tell("emit", values=["room-send", "r", number])
                two.tell("emit", values=["room-send", "elsewhere", number])
            seen = [await one.hears() for _ in range(21)]
            back = next(said for said in seen if "connected" in said)
            assert (back["connected"], back["recovered"]) == (first["connected"], True)
            assert [values(said)[1] for said in seen if "event" in said] == list(range(20))
            (who,) = await one.ask("whoami")
            assert who == {"id": first["connected"], "rooms": ["r"], "recovered": True}
            await one.end()
            await two.end()

    asyncio.run(main())


@pytest.mark.skipif(ON_NODE, reason="Node's server forgets its sessions with its process")
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_server(way: str, tmp_path: Path) -> None:
    """Kill the server with SIGKILL and start it again: the client comes back as who it was, with what it missed."""
    tools.program("node")
    db = tmp_path / "partyline.db"

    async def main() -> None:
        with kitchen("recovery", db=db) as server:
            one = await Client.start(server.url, NEW, WAYS[way])
            one.tell("connect", auth={})
            first = await one.hears()
            await one.ask("join", "r")
            one.tell("emit", values=["room-send", "r", "kept"])
            assert values(await one.hears()) == ["r", "kept"]
            server.kill()
            assert "disconnected" in await one.hears()
            port = server.port
        with kitchen("recovery", db=db, port=port) as again:
            back = await one.hears()
            assert (back["connected"], back["recovered"]) == (first["connected"], True)
            (who,) = await one.ask("whoami")
            assert who == {"id": first["connected"], "rooms": ["r"], "recovered": True}
            one.tell("emit", values=["room-send", "r", "new"])
            assert values(await one.hears()) == ["r", "new"]
            await one.end()
            assert again.process.poll() is None

    asyncio.run(main())


def test_versions_together() -> None:
    """Clients of the versions 2, 3 and 4, on polling and WebSocket, are in one room and hear the same, binary too."""
    tools.program("node")

    async def main() -> None:
        with kitchen("base") as server:
            clients = []
            for version, way in (
                ("2", "polling"),
                ("2", "websocket"),
                ("3", "polling"),
                ("3", "upgrade"),
                ("4", "upgrade"),
            ):
                client = await Client.start(server.url, f"socket.io-client-{version}", WAYS[way])
                client.tell("connect", auth={})
                assert "connected" in await client.hears()
                assert await client.ask("join", "r") == ["r"]
                clients.append(client)
            assert await clients[0].ask("room-size", "r") == [5]
            for number, client in enumerate(clients):
                client.tell("emit", values=["room-send", "r", {"n": number}, "é🎉"])
                for member in clients:
                    assert (await member.hears())["values"] == ["r", {"n": number}, "é🎉"]
            for client in clients:
                await client.end()

    asyncio.run(main())
