"""`python -m tests.kills [DEPLOYMENT ...] [--nodes 200] [--engines 50]`: the long form of test_kills, with figures."""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import tempfile
from pathlib import Path

from tests.kills.deployments import DEPLOYMENTS
from tests.kills.trial import trial


async def main() -> None:
    """Kill nodes and engines of each deployment that is named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*DEPLOYMENTS, []])
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--engines", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--minutes", type=float, default=math.inf, help="for each deployment, at most")
    options = parser.parse_args()
    for name in options.names or DEPLOYMENTS:
        chance = random.Random(options.seed)
        with tempfile.TemporaryDirectory() as folder:
            async with DEPLOYMENTS[name](Path(folder)) as deployment:
                figures = await trial(deployment, options.nodes, options.engines, chance, 60 * options.minutes)
        print(f"{name}, seed {options.seed}: {figures}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
