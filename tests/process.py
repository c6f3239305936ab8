"""The server as its users start it: a process, with what it printed."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path


class Server:
    """A running `partyline serve`. `url` is its address, `facts` what it said when it listened."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, str]) -> None:
        self.process = process
        self.facts = facts
        self.url = facts["listening"]
        self.port = int(self.url.rpartition(":")[2])
        self.errors = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, number: signal.Signals = signal.SIGTERM, within: float = 20.0) -> int:
        """Send a signal; the exit code. What was logged is in `errors` then. Fails where it is still there after
        `within` seconds, and shows where it stands."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        ending = asyncio.ensure_future(self.process.communicate())
        if not (await asyncio.wait([ending], timeout=within))[0]:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes down every thread's stack
            _, self.errors = await ending
            raise AssertionError(f"the server is still there {within} s after {number.name}:\n{self.errors.decode()}")
        _, self.errors = await ending
        assert self.process.returncode is not None
        return self.process.returncode


def command(*arguments: str, module: str = "partyline") -> list[str]:
    """How to run the command line with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This environment without settings of Partyline in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PARTYLINE_")}


@asynccontextmanager
async def serving(
    *arguments: str,
    db: str | Path = ":memory:",
    port: int = 0,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    module: str = "partyline",
    descriptors: int | None = None,
) -> AsyncIterator[Server]:
    """Run `partyline serve`, by default on a free port; ended at the end, if it still runs then.

    `env` is added to its environment; `module` is what Python runs; it may have so many `descriptors`."""
    limit = descriptors and partial(resource.setrlimit, resource.RLIMIT_NOFILE, (descriptors, descriptors))
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--port", str(port), "--db", str(db), "--log-format", "json", *arguments, module=module),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() | {"PYTHONFAULTHANDLER": "1"} | (env or {}),
        cwd=cwd,
        preexec_fn=limit or None,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        if not line:
            raise AssertionError((await process.stderr.read()).decode())
        server = Server(process, json.loads(line))
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
