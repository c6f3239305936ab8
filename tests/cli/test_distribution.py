"""What the package is called: `partyline` on PyPI is another project, whose module has the same name as ours."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from partyline import __version__
from tests.cli import commands
from tests.tools import ROOT


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution `partyline` of somebody else is installed as well."""
    folder = tmp_path / "partyline-2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: partyline\nVersion: 2.0\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("beside")
def test_a_foreign_distribution_is_noticed() -> None:
    """`version` and `doctor` say that another project's `partyline` is installed beside ours, and what to do."""
    done = commands.run("version")
    assert done.stdout == f"partyline {__version__}\n"
    assert "partyline 2.0, another project" in done.stderr
    assert "pip uninstall partyline" in done.stderr
    listed = json.loads(commands.run("doctor", "--json", "--db", ":memory:", "--set", "port=0").stdout)["findings"]
    (found,) = [one for one in listed if one["subject"] == "package"]
    assert found["verdict"] == "warning"
    assert "2.0" in found["text"]
    assert "pip uninstall" in found["advice"]


def test_without_one_nothing_is_said() -> None:
    """Where only ours is installed, `version` prints one line."""
    done = commands.run("version")
    assert (done.stdout, done.stderr) == (f"partyline {__version__}\n", "")


def test_every_install_line_names_ours() -> None:
    """Whatever we say about `pip install` names `partyline-server`, never the other project."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    wrong = re.compile(r"pip install[^\n`]*?[\s'\"]partyline(?![-\w./*])|(?<![-\w/])partyline\[[a-z{]")
    names = [name for name in listed.split("\0") if name.endswith((".md", ".py", ".toml", ".sh", ".yml", ".txt"))]
    assert len(names) > 300
    found = [
        f"{name}: {line.strip()}"
        for name in names
        if name != "tests/cli/test_distribution.py" and (ROOT / name).is_file()
        for line in (ROOT / name).read_text("utf-8").splitlines()
        if wrong.search(line)
    ]
    assert found == []
