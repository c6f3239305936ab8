"""What a server does to clients while they are away holds when they come back (recovery)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually

from .clients import Notes, looped, only, opened, served, serving
from .test_recovery import _Gated, back, fresh, recovering, session, ticket

EXPEL: dict[str, Callable[[SocketIO, str], object]] = {
    "all": lambda io, sid: io.disconnect_sockets(),
    "its room": lambda io, sid: io.in_("user:1").disconnect_sockets(),
    "its id": lambda io, sid: io.in_(sid).disconnect_sockets(close=True),
    "others excepted": lambda io, sid: io.except_("user:2").disconnect_sockets(),
}


@pytest.mark.parametrize("how", EXPEL)
@looped
async def test_expelled_while_away(how: str) -> None:
    """A client that is disconnected while it is away does not come back: it is a new client, and the middlewares are
    asked; one that was not meant comes back."""
    io = recovering()
    seen = Notes()
    io.use(lambda socket: seen.append(socket.recovered))
    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).join("user:1")
        async with session(url, io) as (_, two):
            only(io).join("user:2")
        io.emit("missed")
        EXPEL[how](io, one.sid)
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)
            assert len(seen) == 3
        async with opened(url) as client:
            missed = await back(client, ticket(two))
            assert (client.sid == two.sid, missed) == ((False, []) if how == "all" else (True, [["missed"]]))


@looped
async def test_moved_while_away(tmp_path: Path) -> None:
    """Rooms that a client joins and leaves while it is away are those that it comes back to, over a restart too: it
    gets nothing that went to a room that it has left."""
    db = str(tmp_path / "log.db")
    io = recovering(rooms_per_connection=2)
    async with serving(io, db=db) as (_, url):
        async with session(url, io) as (_, one):
            only(io).join("private", "user:1")
        io.to("private").emit("not for it any more")
        io.in_("user:1").sockets_leave("private")
        io.in_("user:2").sockets_join("others")
        io.in_(one.sid).sockets_join("news")
        io.in_(one.sid).sockets_join("too", "many")
        io.to("news").emit("missed")
        hub = io.engine.site.hub
        assert hub is not None
        await eventually(lambda: hub.fanned_out == 2, "it is kept")
    io = recovering()
    async with served(io, db=db) as url, opened(url) as client:
        assert await back(client, ticket(one)) == [["missed"]]
        assert set(only(io).rooms) == {one.sid, "user:1", "news"}


@looped
async def test_on_its_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds while a client catches up: one that is disconnected gets nothing more and is a new client; one
    that has left a room gets nothing more of it."""
    store = _Gated()
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: store)
    io = recovering()

    async def returning(one: Any, act: Callable[[], object]) -> tuple[list[Any], str, Socket]:
        store.gate, store.waits = asyncio.Event(), 0
        async with opened(url) as client:
            coming = asyncio.ensure_future(back(client, ticket(one)))
            await eventually(lambda: store.waits, "it catches up")
            act()
            store.gate.set()
            return await coming, client.sid, only(io)

    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).join("private")
        io.to("private").emit("secret")
        io.emit("missed")
        store.commit()
        missed, sid, socket = await returning(one, lambda: io.in_(one.sid).sockets_leave("private"))
        assert (missed, sid, set(socket.rooms)) == ([["missed"]], one.sid, {one.sid})
        await eventually(lambda: not io.sockets, "it is away again")
        missed, sid, socket = await returning(one, io.disconnect_sockets)
        assert (missed, socket.recovered) == ([], False)
        assert sid != one.sid
