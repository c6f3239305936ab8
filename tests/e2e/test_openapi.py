"""The OpenAPI document against the server that hands it out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import tools
from tests.process import serving

# A stream of events has no end: each request of it takes as long as schemathesis has patience.
STREAMS = "/events$"
LONG = ["--exclude-path-regex", STREAMS, "--max-examples", "25"]
ENDLESS = [
    "--include-path-regex",
    STREAMS,
    "--max-examples",
    "3",
    "--phases",
    "coverage,fuzzing",
    "--request-timeout",
    "1",
]


@pytest.mark.parametrize("chosen", [LONG, ENDLESS], ids=["calls", "streams"])
def test_schemathesis_finds_nothing(chosen: list[str], tmp_path: Path) -> None:
    """What the document allows is accepted, what it forbids is refused, and every answer matches it."""
    tool = tools.schemathesis()

    async def main() -> None:
        async with serving(db=tmp_path / "party.db") as server:
            run = await asyncio.create_subprocess_exec(
                *tool,
                "run",
                f"{server.url}/openapi.json",
                *chosen,
                *("--seed", "1", "--generation-database", "none", "--no-color"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=tmp_path,
            )
            async with asyncio.timeout(90):
                said, _ = await run.communicate()
            assert run.returncode == 0, said.decode()[-4000:]
            assert " 0 generated" not in said.decode()
            assert await server.end() == 0

    asyncio.run(main())
