"""The commands of docs/howto/backup.md, unchanged, on a database that a server has written."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.calls import call
from tests.process import environment, serving
from tests.tools import ROOT

pytestmark = pytest.mark.check

PAGE = ROOT / "docs" / "howto" / "backup.md"
_RUN = re.compile(r"^```bash run\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


def test_backup(tmp_path: Path) -> None:
    """Every command that is said to be run prints what the page says it prints."""
    blocks = _RUN.findall(PAGE.read_text("utf-8"))
    assert len(blocks) >= 3

    async def fill() -> None:
        async with serving(db=tmp_path / "partyline.db") as server:
            for number in range(2):
                status, _ = await call(f"{server.url}/publish", "POST", {"topic": "cats", "message": str(number)})
                assert status == 200
            assert await server.end() == 0

    asyncio.run(fill())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands, printed in blocks:
        done = subprocess.run(
            ["bash", "-ec", commands],
            cwd=tmp_path,
            env={**environment(), "PATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        for line in printed.splitlines():
            pattern = ".*".join(map(re.escape, line.split("...")))
            assert re.search(f"^{pattern}$", done.stdout, re.MULTILINE), (line, done.stdout)
