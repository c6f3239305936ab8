"""Ctrl-C before a command has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

from partyline.cli import app
from tests.process import command, environment

ROOT = Path(__file__).parents[2]
LONG = 30.0

# Sends SIGINT to the process as soon as a module is looked for.
AT_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""

ARGUMENTS = {
    "backup": ("copy.db", "--db", "p.db"),
    "restore": ("copy.db", "--db", "p.db"),
    "publish": ("cats", "hello"),
    "tail": ("cats",),
    "token": ("--sub", "me"),
    "serve": ("--port", "0", "--db", "p.db"),
}
FILES = {"backup": "copies", "restore": "copies", "version": "output"}
COMMANDS = sorted(str(one.name or one.callback.__name__) for one in app.registered_commands if one.callback)


def interrupted(folder: Path, module: str, *arguments: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(AT_IMPORT)
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LONG,
        env={**environment(), "PYTHONPATH": os.fspath(folder), "INTERRUPT_AT": module},
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )


@pytest.mark.check
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(name: str, tmp_path: Path) -> None:
    """Ctrl-C while the command line or one of its commands is imported ends it with 130, without a word or a file."""
    for module in ("partyline.cli", "typer", f"partyline.cli.{FILES.get(name, name)}"):
        done = interrupted(tmp_path, module, name, *ARGUMENTS.get(name, ()))
        assert (done.returncode, done.stdout, done.stderr) == (130, "", ""), module
        assert not list(tmp_path.glob("*.db*"))


@pytest.mark.check
def test_once_it_has_begun(tmp_path: Path) -> None:
    """Ctrl-C in what a command does before it serves, as the import of a program, is as quiet."""
    (tmp_path / "program.py").write_text("import late\n")
    done = interrupted(tmp_path, "late", "serve", "program:app", "--port", "0", "--db", "p.db")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


@pytest.mark.check
def test_a_process_that_ignores_it(tmp_path: Path) -> None:
    """A process that was started with SIGINT ignored, as in the background of a script, goes on."""
    for module in ("typer", "partyline.cli.key"):
        done = interrupted(tmp_path, module, "key", "--json", ignored=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith('{"key"')


def test_the_console_script_is_the_same() -> None:
    """The console script begins where `python -m partyline` does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"partyline": "partyline.__main__:main"}
