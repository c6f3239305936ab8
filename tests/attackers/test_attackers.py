"""Hostile peers, rows 24-30 and 46-48, as others feel them: attackers beside honest clients.

The server, the attackers and twenty honest clients are processes of their own. The figures: how long the honest ones
wait (p99); how long anybody waits for the loop, in CPU time of its thread (p99), which does not depend on what else the
machine does; and the share of that thread that the attack takes. docs/reference/hostile.md has them for each row;
`python -m tests.attackers` measures them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tools
from tests.process import serving
from tests.tools import ROOT

from .attacks import ROWS

ADMIN = "a-key-of-the-honest-clients"
SHARE = 0.25
P99 = 50.0  # ms
QUIET = 10.0  # ms
TRIES = 3  # a fault shows each time, what else the machine does does not
SECONDS = 1.0 if os.environ.get("PARTYLINE_TRIALS") is None else 6.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server to attack: whether it asks for a credential, and how it is reached."""

    port: int
    pid: int
    probe: Path
    token: str = ""
    tls: bool = False

    def cpu(self) -> float:
        """Seconds that the server's main thread has run."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    async def loop(self) -> float:
        """How long others have waited for the loop since the last time: p99, in ms of CPU."""
        self.probe.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        async with asyncio.timeout(30):
            while not self.probe.exists():
                await asyncio.sleep(0.01)
        found: float = json.loads(self.probe.read_text())["p99"]
        return found


@dataclass(frozen=True, slots=True)
class Figures:
    """The effect of an attack: the honest clients' p99 in ms before and during it, that of the loop, the attack's share
    of it."""

    quiet: float
    p99: float
    loop: float
    share: float
    lost: int

    @property
    def slow(self) -> bool:
        """Whether others waited too long. On a machine that is busy with something else only the loop's figure
        counts."""
        return self.loop > P99 or (self.quiet < QUIET and self.p99 > P99)


@asynccontextmanager
async def target(kind: str, folder: Path) -> AsyncIterator[Target]:
    """`keyed` and `tls` require a credential and listen on all addresses, so that all limits have their defaults;
    `open` listens on loopback for everybody.
    """
    hashed = hashlib.sha256(ADMIN.encode()).hexdigest()
    settings = [f'[[api_keys]]\nhash = "sha256:{hashed}"\nadmin = true\n']
    config = folder / "partyline.toml"
    probe = folder / "probe"
    env = {"PROBE": str(probe), "PYTHONPATH": str(ROOT)}
    serve = ("tests.attackers.probe:probe", "--set", "chat=true")
    if kind == "open":
        async with serving(*serve, env=env) as server:
            yield Target(server.port, server.pid, probe)
        return
    if kind == "tls":
        pem, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [
                *(
                    tools.program("openssl"),
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                ),
                *("-nodes", "-keyout", str(key), "-out", str(pem), "-days", "2", "-subj", "/CN=localhost"),
            ],
            check=True,
            capture_output=True,
        )
        settings.insert(0, f'certfile = "{pem}"\nkeyfile = "{key}"\n')
    config.write_text("".join(settings))
    async with serving(*serve, "--config", str(config), "--host", "0.0.0.0", env=env) as server:
        yield Target(server.port, server.pid, probe, ADMIN, kind == "tls")


class Honest:
    """The honest clients' process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def mark(self) -> dict[str, float]:
        """What they have seen since the last mark."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        seen: dict[str, float] = json.loads(await self._process.stdout.readline())
        return seen


@asynccontextmanager
async def honest(at: Target) -> AsyncIterator[Honest]:
    """Twenty honest clients."""
    async with _beside(
        "tests.attackers.honest", str(at.port), *(["tls"] if at.tls else []), *([at.token] if at.token else [])
    ) as process:
        yield Honest(process)


@asynccontextmanager
async def _beside(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def measured(at: Target, clients: Honest) -> tuple[dict[str, float], float, float]:
    """What the clients see for a while, how long others wait for the loop, and the server's share of it."""
    await at.loop()
    await clients.mark()
    began, before = time.monotonic(), at.cpu()
    await asyncio.sleep(SECONDS)
    seen, share = await clients.mark(), (at.cpu() - before) / (time.monotonic() - began)
    return seen, await at.loop(), share


async def attacked(at: Target, clients: Honest, name: str, count: int) -> Figures:
    """Attack for a while, beside the clients."""
    quiet, _, idle = await measured(at, clients)
    arguments = (str(at.port), name, str(count), *(["tls"] if at.tls else []))
    async with _beside("tests.attackers.attacks", *arguments) as attackers:
        assert attackers.stdout is not None
        await attackers.stdout.readline()
        seen, loop, busy = await measured(at, clients)
    return Figures(quiet["p99"], seen["p99"], loop, max(0.0, busy - idle), int(seen["lost"]))


@pytest.mark.alone
@pytest.mark.check
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "count"), [("keyed", 1), ("keyed", 20), ("open", 1), ("open", 20), ("tls", 20)])
def test_48_others_do_not_feel_it(kind: str, count: int, tmp_path: Path) -> None:
    """hostile 48: beside any attack honest clients wait no longer than 50 ms, and it takes less than a quarter of the
    loop; unless it asks, where everybody may, for what the server is there to do: then only the others' wait counts.
    """
    found: dict[str, Figures] = {}

    async def main() -> None:
        async with target(kind, tmp_path) as at, honest(at) as clients:
            for name in ROWS:
                for _ in range(TRIES):
                    found[name] = figures = await attacked(at, clients, name, count)
                    print(f"{kind} {count} {name}: {figures}")
                    if not (figures.lost or figures.slow or (figures.share > SHARE and ROWS[name].bounded(kind))):
                        break

    asyncio.run(main())
    slow = {name: one for name, one in found.items() if one.slow or one.lost}
    greedy = {
        name: round(one.share, 2) for name, one in found.items() if one.share > SHARE and ROWS[name].bounded(kind)
    }
    assert not slow
    assert not greedy
