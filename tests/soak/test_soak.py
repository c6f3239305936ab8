"""The short form of `make soak`: the same load with fewer clients, for as long as a check may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import ROOT

from .plot import svg


@pytest.mark.check
def test_a_mixed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """With clients of every dialect that come and go, do not read or are malicious, nobody misses an accepted message;
    what the server holds does not grow, and is gone when all have left."""
    plot = tmp_path / "soak.svg"
    command = [sys.executable, "-m", "tests.soak", "--seconds", "30", "--clients", "300", "--plot", str(plot)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=115)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert plot.read_text("utf-8").count("<polyline") > 6


def test_a_plot_has_a_panel_for_each_series() -> None:
    """Each series has its name, its largest value and one point for each second."""
    drawn = svg("a <title>", [0.0, 1.0, 2.0], {"one": [1, 5, 2], "two": [0, 0, 0]}, [1.0])
    assert "a &lt;title&gt;" in drawn
    assert drawn.count("<polyline") == 2
    assert ">one<" in drawn
    assert ">5<" in drawn
    points = drawn.partition('points="')[2].partition('"')[0].split()
    assert len(points) == 3
    assert len({point.partition(",")[2] for point in points}) == 3
