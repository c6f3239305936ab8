"""Makes tests/vectors/*.json anew from the npm parsers: python -m tests.vectors"""

from __future__ import annotations

import json
from pathlib import Path

from tests.vectors.node import run

HERE = Path(__file__).parent


def main() -> None:
    for name, vectors in run("generate.cjs").items():
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n", "utf-8")


main()
