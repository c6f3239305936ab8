"""`partyline serve --workers`: several processes that are one server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from partyline.client import socketio
from tests.calls import call, register
from tests.e2e.test_session import make_certificate
from tests.process import Server, serving
from tests.relay.v1.test_websocket import Line, line, offset
from tests.server.peers import request

WORKERS = 2


@contextlib.asynccontextmanager
async def workers(*arguments: str, count: int = WORKERS, db: str = "") -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        async with serving("--workers", str(count), *arguments, db=db or Path(folder) / "p.db") as server:
            yield server


def processes(server: Server) -> dict[str, int]:
    """The children by their names."""
    found: dict[str, int] = {}
    for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
    return found


async def until(holds: Callable[[], Any]) -> Any:
    async with asyncio.timeout(15):
        while not (found := holds()):
            await asyncio.sleep(0.02)
        return found


async def kill(server: Server, name: str) -> None:
    """Kill one of them, and return when it is replaced."""
    pid: int = await until(lambda: processes(server).get(name))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: processes(server).get(name, pid) != pid)


def mark(url: str) -> str:
    """Which worker an address of a registration names."""
    return url.rpartition(".")[2]


async def registrations(server: Server, **fields: Any) -> dict[str, list[str]]:
    """Addresses of registrations, some of each worker."""
    found: dict[str, list[str]] = {}
    while len(found) < WORKERS or min(map(len, found.values())) < 3:
        address = await register(server.url, **fields)
        found.setdefault(mark(address), []).append(address)
    return found


def test_connections_are_spread() -> None:
    """Each worker gets its share of the connections."""

    async def main() -> None:
        async with workers() as server:
            got = Counter([mark(await register(server.url, user=number)) for number in range(200)])
            assert len(got) == WORKERS
            assert min(got.values()) > 60

    asyncio.run(main())


def test_everybody_has_everything_in_one_order() -> None:
    """Subscribers on whatever worker get what is published over whatever worker, kept or not, each message once, and
    those that are kept in the order of their positions."""

    async def main() -> None:
        async with workers() as server, contextlib.AsyncExitStack() as stack:
            clients: list[Line] = [await stack.enter_async_context(line(server.url)) for _ in range(10)]
            for client in clients:
                await client.ask("subscribe", topic="cats")
            for number in range(40):
                path = f"{server.url}/v1/topics/cats/messages"
                status, _ = await call(path, "POST", {"data": number, "durable": number % 4 != 0})
                assert status == 200
            for client in clients:
                frames = await client.messages(40)
                assert sorted(frame["data"] for frame in frames) == list(range(40))
                kept = [offset(frame["position"]) for frame in frames if frame.get("position")]
                assert len(kept) == 30
                assert kept == sorted(kept)

    asyncio.run(main())


def test_a_registration_is_used_over_any_worker() -> None:
    """Wherever a registration was made, its WebSocket, its topics and its end are served over any connection."""

    async def main() -> None:
        async with workers() as server:
            for addresses in (await registrations(server)).values():
                for address in addresses:
                    for _ in range(3):  # three connections, on whatever worker
                        async with connect(address) as socket:
                            ident = urlsplit(address).path.rpartition("/")[2]
                            added = {"topic": "dogs", "client_id": ident}
                            assert (await call(f"{server.url}/add_topic", "POST", added))[0] == 200
                            await call(f"{server.url}/publish", "POST", {"topic": "dogs", "message": "woof"})
                            async with asyncio.timeout(5):
                                assert await socket.recv() == "woof"
                            assert (await call(f"{server.url}/remove_topic", "DELETE", added))[0] == 200
                    async with connect(address) as socket:
                        assert (await call(f"{server.url}/register/{ident}", "DELETE"))[0] == 200
                        with pytest.raises(ConnectionClosed):
                            await asyncio.wait_for(socket.recv(), 5)
                    assert (await call(f"{server.url}/register/{ident}", "DELETE"))[0] == 404

    asyncio.run(main())


def test_tls_goes_through(tmp_path: Path) -> None:
    """Over TLS, too, a WebSocket may reach any worker: large messages come through, and so does the farewell of a
    drain."""
    cert, key = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))

    async def main() -> None:
        async with workers("--certfile", str(cert), "--keyfile", str(key)) as server:
            assert server.url.startswith("https://")
            closing = []
            for number in range(12):
                address = await register(server.url, user=number, topics=["big"], tls=trust)
                socket = await connect(address, ssl=trust, max_size=None)
                big = "x" * 700_000 + str(number)
                await call(
                    f"{server.url}/publish", "POST", {"topic": "big", "message": big, "user_id": number}, tls=trust
                )
                async with asyncio.timeout(10):
                    assert await socket.recv() == big
                if number % 2:
                    await socket.close()
                else:
                    closing.append(socket)
            ending = asyncio.create_task(server.end())
            for socket in closing:
                await socket.wait_closed()
                assert socket.close_code == 1012
            assert await ending == 0

    asyncio.run(main())


async def polled(url: str, sid: str = "", body: str | None = None) -> str:
    """One request of polling, on a connection of its own."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        query = "EIO=4&transport=polling" + (f"&sid={sid}" if sid else "")
        method, data = ("GET", b"") if body is None else ("POST", body.encode())
        head = f"{method} /socket.io/?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: text/plain\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        return (await reader.read()).decode().partition("\r\n\r\n")[2]
    finally:
        writer.close()


def test_polling_without_sticky_sessions() -> None:
    """Sessions on polling whose every request is a new connection work, and so does their upgrade to WebSocket."""

    async def main() -> None:
        async with workers() as server:
            for _ in range(10):
                sid = json.loads((await polled(server.url))[1:])["sid"]
                assert await polled(server.url, sid, "40/relay,") == "ok"
                assert (await polled(server.url, sid)).startswith("40/relay,")
                assert await polled(server.url, sid, '42/relay,1["subscribe",{"topic":"cats"}]') == "ok"
                assert (await polled(server.url, sid)).startswith("43/relay,1")
                await call(f"{server.url}/publish", "POST", {"topic": "cats", "message": "hello"})
                assert "hello" in await polled(server.url, sid)
                address = server.url.replace("http", "ws") + f"/socket.io/?EIO=4&transport=websocket&sid={sid}"
                async with connect(address) as socket:
                    await socket.send("2probe")
                    assert await socket.recv() == "3probe"
            assert json.loads(await polled(server.url, "AAAAAAAAAAAAAAAAAAAAAA.1")) == {
                "code": 1,
                "message": "Session ID unknown",
            }

    asyncio.run(main())


class Publisher:
    """Publishes as fast as it is answered, and remembers what was acknowledged."""

    def __init__(self, url: str, name: str) -> None:
        self.url = f"{url}/v1/topics/cats/messages"
        self.name = name
        self.acknowledged: list[str] = []
        self.refused = 0

    async def run(self, number: int) -> None:
        for serial in range(number):
            data = f"{self.name}-{serial}"
            while True:
                try:
                    status, _ = await call(self.url, "POST", {"data": data, "id": data})
                except OSError:
                    status = 0
                if status == 200:
                    self.acknowledged.append(data)
                    break
                self.refused += 1
                await asyncio.sleep(0.02)


async def history(url: str) -> list[str]:
    found: list[str] = []
    after = "earliest"
    while True:
        status, page = await call(f"{url}/v1/topics/cats/messages?after={after}&limit=1000")
        assert status == 200
        found += [message["data"] for message in page["messages"]]
        if not page["more"]:
            return found
        after = page["next"]


@pytest.mark.parametrize("victim", ["keeper", "worker-0", "worker-1"])
def test_kill_9_under_load(victim: str) -> None:
    """A process is killed again and again while eight publish: nothing that was acknowledged is missing, nothing is
    there twice, and a subscriber that resumes gets each once."""

    async def main() -> None:
        async with workers() as server:
            publishers = [Publisher(server.url, str(number)) for number in range(8)]
            running = [asyncio.create_task(publisher.run(60)) for publisher in publishers]
            for _ in range(4):
                await asyncio.sleep(0.2)
                await kill(server, victim)
            async with asyncio.timeout(60):
                await asyncio.gather(*running)
            kept = await history(server.url)
            wanted = [data for publisher in publishers for data in publisher.acknowledged]
            assert len(wanted) == 480
            assert sorted(kept) == sorted(wanted)
            async with line(server.url) as client:
                await client.ask("subscribe", topic="cats", after="earliest")
                assert await client.data(480) == kept
            assert await server.end() == 0

    asyncio.run(main())


def test_a_keeper_that_hangs() -> None:
    """While the keeper stands still connections stay, what is to be kept is refused in time, and what is not goes on;
    when it moves again, so does everything."""

    async def main() -> None:
        async with workers() as server, line(server.url) as client:
            await client.ask("subscribe", topic="cats")
            path = f"{server.url}/v1/topics/cats/messages"
            os.kill(processes(server)["keeper"], signal.SIGSTOP)
            began = time.monotonic()
            status, answer = await call(path, "POST", {"data": "kept"})
            assert (status, answer["error"]["code"]) == (503, "store_unavailable")
            assert time.monotonic() - began < 5.0
            reply = await client.ask("publish", topic="cats", data="passing", durable=False)
            assert reply["position"] is None
            assert await client.data(1) == ["passing"]
            os.kill(processes(server)["keeper"], signal.SIGCONT)
            async with asyncio.timeout(10):
                while (await call(path, "POST", {"data": "again", "id": "again"}))[0] != 200:
                    await asyncio.sleep(0.05)
                while "again" not in await client.data(1):
                    pass

    asyncio.run(main())


def test_registrations_outlive_their_worker() -> None:
    """What a killed worker had registered is there again with the next one, and after a restart of the whole server
    with another number of workers."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            db = f"{folder}/p.db"
            async with workers(db=db) as server:
                addresses = await registrations(server, resume=True)
                await kill(server, "worker-1")
                for some in addresses.values():
                    await until_connected(some[0])
                assert await server.end() == 0
            async with workers(db=db, count=3) as server:
                for some in addresses.values():
                    there = f"ws://127.0.0.1:{server.port}{urlsplit(some[1]).path}"
                    await until_connected(there)

    asyncio.run(main())


async def until_connected(address: str) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Exception):
                async with connect(address):
                    return
            await asyncio.sleep(0.05)


def test_one_drain() -> None:
    """A SIGTERM ends all of it: every client is told 1012, and the exit code is 0, also where the whole group of
    processes gets the signal, as from a terminal."""

    async def main() -> None:
        for to_all in (False, True):
            async with workers() as server, contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(line(server.url)) for _ in range(8)]
                if to_all:
                    for pid in processes(server).values():
                        os.kill(pid, signal.SIGTERM)
                ending = asyncio.create_task(server.end())
                for client in clients:
                    await client.socket.wait_closed()
                    assert client.socket.close_code == 1012
                assert await ending == 0

    asyncio.run(main())


def test_a_drain_is_not_hurried_by_hangups() -> None:
    """A terminal that goes sends SIGHUP more than once: the request in hand is answered all the same. A SIGTERM after
    that waits no longer."""

    async def main() -> None:
        body = b'{"topic": "cats", "message": "kept"}'
        form = "Content-Type: application/json"
        head = request("POST", "/publish", None, form, f"Content-Length: {len(body)}", "Expect: 100-continue")
        async with workers() as server, line(server.url) as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head)
            assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            server.process.send_signal(signal.SIGHUP)
            await client.socket.wait_closed()  # the drain has begun
            server.process.send_signal(signal.SIGHUP)
            server.process.send_signal(signal.SIGHUP)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.process.wait(), 1.0)
            writer.write(body)
            assert b" 200 OK" in await reader.readline()
            writer.close()
            assert await server.end(signal.SIGHUP) == 0

    asyncio.run(main())


@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_a_parent_that_is_killed_takes_all_with_it(gone: bool, tmp_path: Path) -> None:
    """When the parent is killed, workers and keeper end by themselves, and the port and the database are free again;
    also where the database is gone, and nothing can be written any more."""

    async def main() -> None:
        async with workers(db=str(tmp_path / "p.db")) as server:
            children = processes(server)
            assert set(children) == {"keeper", "worker-0", "worker-1"}
            if gone:
                (tmp_path / "p.db").unlink()
            os.kill(server.pid, signal.SIGKILL)
            await until(
                lambda: not any(os.path.exists(f"/proc/{pid}/stat") and alive(pid) for pid in children.values())
            )

    asyncio.run(main())


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_metrics_are_of_all_workers() -> None:
    """/metrics adds up what all workers have counted, whichever is asked."""

    async def main() -> None:
        async with workers() as server:
            for number in range(30):
                await register(server.url, user=number)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = (await reader.read()).decode()
            writer.close()
            assert "partyline_requests_total 31.0" in text

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "chat=true"], "chat: its waiting room is in one process"),
        (["--set", "workers=1000"], "workers: 1000 are more than 256"),
        (["--db", "/nowhere/at/all.db"], "db: the folder /nowhere/at does not exist"),
    ],
)
def test_what_workers_cannot_do_is_refused(arguments: list[str], says: str) -> None:
    """Whatever keeps the server from starting is said in one line, and nothing is left running."""

    async def main() -> None:
        with pytest.raises(AssertionError) as caught:
            async with workers(*arguments):
                pass
        said = str(caught.value).strip()
        assert says in said
        assert len(said.splitlines()) == 1

    asyncio.run(main())


APP = """
import asyncio
from partyline import SocketIO

io = SocketIO()


@io.on("join")
async def join(socket, room):
    socket.join(room)
    return io.engine.site.mark


@io.on("say")
async def say(socket, room, text):
    io.to(room).emit("said", text)
    return True


@io.on("who")
async def who(socket, room):
    return sorted(one.id for one in await io.fetch_sockets(room))
"""


@contextlib.asynccontextmanager
async def application(folder: Path) -> AsyncIterator[Server]:
    (folder / "app.py").write_text(APP)
    arguments = ("app:io", "--workers", str(WORKERS), "--set", "ping_interval=1")
    async with serving(*arguments, db=folder / "p.db", cwd=folder) as server:
        yield server


def test_rooms_of_an_application_span_workers(tmp_path: Path) -> None:
    """What a Socket.IO handler says to a room reaches its sockets on all workers, and `fetch_sockets` finds them; a
    worker that is killed is not waited for."""

    async def main() -> None:
        async with application(tmp_path) as server, contextlib.AsyncExitStack() as stack:
            clients: dict[str, list[Any]] = {}
            said: dict[str, list[str]] = {}
            while len(clients) < WORKERS or min(map(len, clients.values())) < 2:
                client = await stack.enter_async_context(socketio.connect(server.url))
                client.on("said", said.setdefault(str(id(client)), []).append)
                clients.setdefault(await client.call("join", "lobby"), []).append(client)
            everybody = [client for some in clients.values() for client in some]
            for number, client in enumerate(everybody):
                assert await client.call("say", "lobby", str(number)) is True
            wanted = {str(number) for number in range(len(everybody))}
            await until(lambda: all(set(heard) == wanted for heard in said.values()))
            assert len(await everybody[0].call("who", "lobby")) == len(everybody)
            await kill(server, "worker-1")
            began = time.monotonic()
            assert len(await clients[".0"][0].call("who", "lobby")) == len(clients[".0"])
            assert time.monotonic() - began < 1.0

    asyncio.run(main())


def test_presence_and_lists_are_of_all_workers() -> None:
    """Whichever worker is asked, presence, topics and connections are those of all; the people of a worker that is
    killed are gone within a second."""

    async def main() -> None:
        async with workers() as server, contextlib.AsyncExitStack() as stack:
            found = await registrations(server, user=7, topic="cats")
            for some in found.values():
                await stack.enter_async_context(connect(some[0]))
            for _ in range(6):  # each time another worker, perhaps
                _, topics = await call(f"{server.url}/v1/topics")
                assert topics == {"topics": [{"topic": "cats", "connections": len(found)}]}
                assert await call(f"{server.url}/v1/topics/cats/presence") == (200, {"topic": "cats", "users": ["7"]})
                assert len((await call(f"{server.url}/v1/connections"))[1]["connections"]) == len(found)
            os.kill(processes(server)["worker-1"], signal.SIGKILL)
            async with asyncio.timeout(1.0):
                while (await call(f"{server.url}/v1/topics"))[1] != {"topics": [{"topic": "cats", "connections": 1}]}:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
