"""`make test` and `make check` are two halves of all tests."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.tools import ROOT


def run(target: str) -> str:
    """The command of a target of the Makefile, without the path of its Python."""
    found = re.search(
        rf"^{target}:.*\n\t\$\(PYTEST\) (.*) \$\(ARGS\)\n(?!\t)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert found, target
    return found[1]


def test_the_two_targets_are_each_others_rest() -> None:
    """The two commands differ in one mark, which one wants and the other does not; neither leaves out anything else."""
    assert run("test") == '-m "not check"'
    assert run("check") == "-m check"


def test_ci_runs_both() -> None:
    """The whole check runs both targets, and a test that is skipped fails there."""
    assert (ROOT / ".ci" / "run").read_text("utf-8").endswith("export PARTYLINE_REQUIRE=all\nmake test\nmake check\n")


@pytest.mark.check
def test_every_test_is_collected() -> None:
    """Without the mark, what is collected is every file that has tests, whatever its name."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    collected = {line.partition(": ")[0] for line in done.stdout.splitlines() if line.startswith("tests/")}
    testing = re.compile(r"^(async )?def test_", re.MULTILINE)
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if "node_modules" not in path.parts and testing.search(path.read_text("utf-8"))
    }
    assert collected == there
