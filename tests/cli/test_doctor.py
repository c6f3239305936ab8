"""`partyline doctor` as people and scripts use it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from partyline.cli.machine import examine_machine, filesystem
from partyline.config import Settings
from partyline.findings import Verdict
from tests.cli import commands
from tests.process import command, environment, serving
from tests.stores.sqlite.logs import change
from tests.stores.sqlite.test_copying import filled


def run(*arguments: str, code: int = 0) -> str:
    done = commands.run("doctor", *arguments, COLUMNS="200")
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr == ""
    return done.stdout


def findings(*arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    listed = json.loads(run("--json", *arguments, code=code))["findings"]
    return {one["subject"]: one for one in listed}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_all_is_well(tmp_path: Path) -> None:
    """With a sound database the exit code is 0, every finding is one plain line, and the machine is described."""
    db = tmp_path / "partyline.db"
    filled(db)
    arguments = ("--db", str(db), "--set", f"port={free_port()}")
    printed = run(*arguments)
    assert "\x1b" not in printed
    assert all(line.startswith(("ok ", "warning ", "   ")) for line in printed.splitlines()), printed
    found = findings("--deep", *arguments)
    for subject in ("python", "package", "uvloop", "sqlite", "descriptors", "port", "disk", "filesystem"):
        assert found[subject]["text"]
    assert found["messages"]["verdict"] == "ok"
    assert found["lock"]["text"].startswith("free")


def test_a_problem_is_exit_code_1(tmp_path: Path) -> None:
    """Damage is reported as a problem with advice and exit code 1; scripts get a list of the positions."""
    db = tmp_path / "partyline.db"
    epoch = filled(db, 20)
    change(db, "UPDATE log SET data = x'32' WHERE offset = 7")
    arguments = ("--db", str(db), "--set", f"port={free_port()}")
    printed = run(*arguments, code=1)
    assert "problem  messages" in printed
    assert "to do: restore a backup" in printed
    found = findings("--deep", *arguments, code=1)
    assert found["messages"]["positions"] == [f"{epoch}-7"]
    assert found["structure"]["verdict"] == "ok"


@pytest.mark.check
def test_beside_a_running_server(tmp_path: Path) -> None:
    """doctor finds a running server by its lock and on its port, and disturbs nothing."""

    async def main() -> None:
        async with serving(db=tmp_path / "partyline.db") as server:
            arguments = ("--db", str(tmp_path / "partyline.db"), "--set", f"port={server.port}")
            found = await asyncio.to_thread(findings, "--deep", *arguments)
            assert found["lock"]["text"] == f"held by a server, process {server.pid}"
            assert f"process {server.pid}" in found["port"]["text"]
            assert found["port"]["verdict"] == "ok"
            assert await server.end() == 0

    asyncio.run(main())


def test_a_port_in_use(tmp_path: Path) -> None:
    """doctor names the process that listens on the port, without its arguments."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = findings("--db", str(tmp_path / "x.db"), "--set", f"port={port}", code=1)
    assert found["port"]["verdict"] == "problem"
    assert f"process {os.getpid()} (" in found["port"]["text"]
    assert "--port" in found["port"]["advice"]


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    """Settings that serve would refuse are a finding, and the rest is examined all the same."""
    found = findings("--db", str(tmp_path / "x.db"), "--set", "max_bdy=1", code=1)
    assert found["settings"]["verdict"] == "problem"
    assert "max_body" in found["settings"]["text"]
    assert found["database"]["verdict"] == "ok"


def test_a_settings_file_that_is_broken(tmp_path: Path) -> None:
    """A file that is not TOML is named with the place where it breaks, and the advice is to fix it."""
    file = tmp_path / "partyline.toml"
    file.write_text("port = 8000\nhost 1\n")
    found = findings("--db", ":memory:", "--config", str(file), code=1)["settings"]
    assert found["text"].startswith(f"config: {file} is not TOML: ")
    assert "line 2" in found["text"]
    assert found["advice"].startswith("fix the file")


def test_in_memory() -> None:
    """Without a database file there is nothing to look at."""
    found = findings("--db", ":memory:", "--set", f"port={free_port()}")
    assert "keeps nothing" in found["database"]["text"]
    assert "disk" not in found


def test_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the report is a table with colours, and its progress bar is gone at the end."""
    db = tmp_path / "partyline.db"
    filled(db, 20)
    change(db, "UPDATE log SET data = x'32' WHERE offset = 7")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("doctor", "--deep", "--db", str(db)),
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "COLUMNS": "100", "TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(20) == 1
    assert b"\x1b[" in shown
    assert b"problem" in shown
    assert b"to do:" in shown


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("ext4", Verdict.OK), ("nfs4", Verdict.PROBLEM), ("fuse.sshfs", Verdict.PROBLEM), ("tmpfs", Verdict.WARNING)],
)
def test_filesystems(tmp_path: Path, kind: str, verdict: Verdict) -> None:
    """The filesystem is the one with the longest mount point above the folder; a network filesystem is a problem."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:1 / / rw shared:1 - xfs /dev/a rw\n"
        f"23 22 0:2 / /srv/my\\040data rw,relatime shared:2 master:1 - {kind} here rw\n"
        "24 22 0:3 / /srv/my\\040data/other rw - btrfs /dev/b rw\n"
    )
    found = filesystem("/srv/my data/partyline", str(mounts))
    assert found.verdict is verdict
    assert kind in found.text
    assert filesystem("/srv/my data2", str(mounts)).text == "xfs"


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low limit on descriptors is a warning that says how to raise it."""
    monkeypatch.setattr("partyline.cli.machine.descriptor_limit", lambda: 512)
    monkeypatch.setattr("partyline.cli.machine.max_connections", lambda settings: 256)
    (found,) = [one for one in examine_machine(Settings(db=":memory:", port=0)) if one.subject == "descriptors"]
    assert found.verdict is Verdict.WARNING
    assert "ulimit" in found.advice
