"""Partyline's Socket.IO: `m` comes back to its sender, `a` is acknowledged, `b` goes to everybody else."""

from __future__ import annotations

import asyncio

from partyline import Settings, Socket, SocketIO, build

io = SocketIO()


@io.on("m")
def echo(socket: Socket, text: str) -> None:
    """Send it back."""
    socket.emit("m", text)


@io.on("a")
def acknowledge(socket: Socket, text: str) -> str:
    """Answer with it."""
    return text


@io.on("b")
def broadcast(socket: Socket, text: str) -> None:
    """Send it to all others."""
    socket.broadcast.emit("m", text)


async def main() -> None:
    """Serve until a signal comes."""
    partyline = build(Settings(port=0, db=":memory:"), extras=[io])
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
        runner.run(main())
