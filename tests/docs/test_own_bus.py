"""The bus in docs/howto/own-bus.md keeps every promise of a bus, as its page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import ROOT

PAGE = ROOT / "docs" / "howto" / "own-bus.md"


@pytest.mark.check
def test_its_test_passes(tmp_path: Path) -> None:
    """The two files of the page, side by side, pass under pytest; the bus is short."""
    files = dict(re.findall(r"^```python file=(\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    assert set(files) == {"folder_bus.py", "test_folder_bus.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    lines = [line for line in files["folder_bus.py"].splitlines() if line.strip()]
    assert len(lines) <= 78
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
