"""How a serving process ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Final

from partyline import log

_log = log.get("server")

_PATIENCE: Final = 1.0  # seconds that cancelled tasks have to end


async def end_tasks() -> None:
    """After the server has ended: a handler that resists cancellation must not keep the process alive."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stubborn = await asyncio.wait(tasks, timeout=_PATIENCE)
        if stubborn:
            _log.warning(
                "tasks did not end when they were cancelled: the process ends without them",
                tasks=sorted(map(repr, stubborn)),
            )
            log.flush()
            if sys.stdout is not None:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
            os._exit(0)
