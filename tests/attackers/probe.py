"""How long others wait for the loop, in CPU time of its thread, so that other load on the machine does not count.

`partyline serve tests.attackers.probe:probe` runs it; at SIGUSR2 it writes what it has seen since the last time to the
file named by PROBE.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from partyline.server.site import Endpoint, Site, Upgrade

EVERY = 0.005  # seconds


class Probe:
    """Something that wants to run every 5 ms."""

    def __init__(self) -> None:
        self.delays: list[float] = []  # CPU seconds until it ran
        self._before = 0.0

    def attach(self, site: Site) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, self._tell)
        self._before = time.thread_time()
        loop.call_later(EVERY, self._look, loop)

    def routes(self) -> Sequence[BaseRoute]:
        return ()

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        return None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.thread_time()
        self.delays.append(now - self._before)
        self._before = now
        loop.call_later(EVERY, self._look, loop)

    def _tell(self) -> None:
        delays, self.delays = sorted(self.delays), []
        path = Path(os.environ["PROBE"])
        made = path.with_suffix(".new")
        made.write_text(json.dumps({"p99": delays[int(len(delays) * 0.99)] * 1000 if delays else 0.0}))
        made.rename(path)


probe = Probe()
