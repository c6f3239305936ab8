"""The cases of connections, sockets, broadcasts and handlers again, under other ASGI servers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

from partyline import EngineIO, Partyline, Settings
from partyline.server.site import Extra
from tests.engineio.clients import Polling, upgraded
from tests.server.asgi_servers import running_under
from tests.server.peers import connected
from tests.socketio import clients, test_broadcast, test_connection, test_handlers, test_socket
from tests.tools import one_in

Case = Callable[[], None]

NATIVE = frozenset(
    (
        "test_inline_or_a_task",  # in the turn of the read: the other server has its own turns
        "test_a_poller_that_does_not_fetch",  # whose outbox holds less than a turn emits: no socket's buffer takes more
    )
)


def cases(*modules: ModuleType) -> Iterator[Any]:
    """The tests of some modules that take no arguments."""
    for module in modules:
        for name, case in vars(module).items():
            mine = inspect.isfunction(case) and case.__module__ == module.__name__ and name not in NATIVE
            if mine and name.startswith("test_") and not inspect.signature(case).parameters:
                yield pytest.param(case, id=f"{module.__name__.rpartition('.')[2]}::{name}")


@pytest.mark.parametrize("name", ["uvicorn websockets-sansio", "hypercorn"])
@pytest.mark.parametrize("case", one_in(6, cases(test_connection, test_socket, test_broadcast, test_handlers)))
def test_it_holds_under_another_server(case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case holds when another server has the sockets."""

    @contextlib.asynccontextmanager
    async def server(*, extras: Sequence[Extra] = (), **settings: Any) -> AsyncIterator[tuple[Partyline, str]]:
        chosen = Settings(**{"port": 0, "db": ":memory:", "drain_time": 1.0, **settings})
        async with running_under(name)(chosen, extras=extras) as (partyline, url):
            yield partyline, url

    monkeypatch.setattr(clients, "partyline_server", server)
    case()


@pytest.mark.parametrize("name", ["uvicorn websockets-sansio", "hypercorn"])
@clients.looped
async def test_a_get_behind_an_upgrade(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GET that such a server hands over before the end of an upgrade, though that was sent first, is answered after
    it, as polling is over."""
    monkeypatch.setattr("partyline.engineio.polling.OWN_READ", 0.5)
    chosen = Settings(port=0, db=":memory:", drain_time=1.0)
    async with (
        running_under(name)(chosen, extras=[EngineIO()]) as (_, url),
        Polling.at(url) as client,
        connected(url) as peer,
    ):
        socket = await upgraded(peer, client.sid)
        get = asyncio.create_task(client.get())
        await asyncio.sleep(0.1)  # the server has it
        await socket.say("2probe", "5")
        assert await socket.text() == "3probe"
        assert (await get).status == 400
