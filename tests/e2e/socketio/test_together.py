"""Clients of the versions 2, 3 and 4, and python-socketio's, with one server."""

from __future__ import annotations

import asyncio

from tests import tools

from .kitchen import clients, kitchen

KINDS = [f"{version} {way}" for version in (2, 3, 4) for way in ("polling", "websocket", "upgrade")]


def test_one_room() -> None:
    """All clients of one room get the same events in the same order, also binary ones, whoever sends them."""
    tools.program("node")

    async def main() -> None:
        with kitchen("base") as server:
            async with clients(server.url, *KINDS) as all_of_them:
                for client in all_of_them:
                    assert await client.ask("join", "r") == ["r"]
                assert await all_of_them[0].ask("room-size", "r") == [len(KINDS)]
                for number, client in enumerate(all_of_them):
                    said = [{"n": number}, "é🎉", {"deep": [{"bytes": "00ff80"}]}]
                    client.emit("room-send", "r", *said)
                    for member in all_of_them:
                        assert await member.hears() == {"event": "room-message", "values": ["r", *said]}, member.kind

    asyncio.run(main())


def test_the_server_is_killed_and_comes_back() -> None:
    """Each client comes back by itself, as a new one, to a server that does not know it."""
    tools.program("node")

    async def main() -> None:
        with kitchen("base") as server:
            async with clients(server.url, *KINDS) as all_of_them:
                for client in all_of_them:
                    await client.ask("join", "r")
                server.kill()
                for client in all_of_them:
                    assert "disconnected" in await client.hears()
                with kitchen("base", port=server.port):
                    for client in all_of_them:
                        back = (await client.until("connected"))[-1]
                        assert back["connected"] != client.id
                        assert not back["recovered"]
                        assert (await client.ask("whoami"))[0]["rooms"] == []

    asyncio.run(main())
