"""Three servers that are one, killed under load with what has their log (`python -m tests.kills` kills for longer)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.kills.deployments import DEPLOYMENTS
from tests.kills.trial import SUBSCRIBERS, trial

pytestmark = pytest.mark.check


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_kills_under_load(name: str, tmp_path: Path) -> None:
    """Whichever server is killed, or what has the log: nothing that was acknowledged is missing, nothing is there
    twice, and every subscriber resumes anywhere and gets all of it in the one order."""

    async def main() -> None:
        async with DEPLOYMENTS[name](tmp_path) as deployment:
            figures = await trial(deployment, nodes=3, engines=1, chance=random.Random(1))
        assert figures.resumed > SUBSCRIBERS, "nobody lost a connection: the kills met nothing"
        assert figures.again > 0, "no publish met a kill"

    asyncio.run(main())
