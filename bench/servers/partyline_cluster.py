"""Partyline's Socket.IO as one of several: by itself on a bus or in Node's cluster, or as workers of `partyline serve`.

`m` comes back to its sender, `a` is acknowledged, `b` goes to everybody else. `join` lets a socket into the lobby,
`flow` emits to the lobby so many events with the time of each, at a rate, and `who` counts the sockets of all servers.
"""

from __future__ import annotations

import asyncio
import sys
import time

from partyline import NodeCluster, Settings, Socket, SocketIO, build

TOGETHER = 25  # events that are emitted in one turn, in a row about CPU


def served(**options: object) -> SocketIO:
    """A SocketIO with these handlers."""
    made = SocketIO(nodes_timeout=60.0, **options)  # type: ignore[arg-type]

    @made.on("m")
    def echo(socket: Socket, text: str) -> None:
        socket.emit("m", text)

    @made.on("a")
    def acknowledge(socket: Socket, text: str) -> str:
        return text

    @made.on("b")
    def broadcast(socket: Socket, text: str) -> None:
        socket.broadcast.emit("m", text)

    @made.on("join")
    def join(socket: Socket) -> bool:
        socket.join("lobby")
        return True

    @made.on("flow")
    async def flow(socket: Socket, count: int, rate: int, together: int) -> int:
        began = time.monotonic()
        for number in range(count):
            if number % together == 0:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            made.to("lobby").emit("m", time.monotonic_ns() // 1000)
        return count

    @made.on("who")
    async def who(socket: Socket) -> int:
        return len(await made.fetch_sockets())

    return made


io = served()


async def main(carrier: str, url: str) -> None:
    """Serve until a signal comes, beside others on a bus, or in the classic form of Node's adapter."""
    settings = Settings(port=0, db=":memory:")
    adapter = None
    if carrier == "bus":
        settings = Settings(port=0, db=":memory:", bus=url, ephemeral_topics=(">",))
    elif carrier == "classic":
        adapter = NodeCluster(url, form="classic")
    partyline = build(settings, extras=[served(adapter=adapter)])
    partyline.shell.stop_on_signals()
    url = (await partyline.listen())[0]
    print("listening", url.rpartition(":")[2], flush=True)
    await partyline.serve()


if __name__ == "__main__":
    try:
        import uvloop as loops
    except ImportError:
        loops = asyncio  # type: ignore[assignment]
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(main(*sys.argv[1].split(" ")))
