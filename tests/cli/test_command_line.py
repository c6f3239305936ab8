"""The command line as people meet it: what it prints, how it fails."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

import partyline
from partyline.errors import ConfigError
from tests.process import command, environment

from .commands import run


def fails(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line on standard error, exit code 2, no stack trace."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("partyline: ")
    for word in words:
        assert word in done.stderr


def test_port_in_use(tmp_path: Path) -> None:
    """A port in use gives one line that names the port, the process that has it and the way out; no database is
    made."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for db in (":memory:", str(tmp_path / "partyline.db")):
            fails(run("serve", "--port", str(port), "--db", db), f"port: {port} on 127.0.0.1 is in use by", "--port")
    assert list(tmp_path.iterdir()) == []


def test_port_in_use_in_a_program() -> None:
    """A program that calls `serve` itself has no options, so the error names the setting, too."""

    async def main(port: int) -> None:
        with pytest.raises(ConfigError, match=rf"^port {port} on 127.0.0.1 is in use: .*setting port, or --port"):
            async with partyline.running(partyline.Settings(port=port, db=":memory:")):
                pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(main(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "http"), ("port", "'http'", "--port")),
        (("--port", "70000"), ("port", "70000", "0 to 65535")),
        (("--port", "-1"), ("port", "-1", "0 to 65535")),
        (("--host", "0.0.0.0"), ("host", "api_keys", "partyline key", "127.0.0.1", "--insecure")),
        (("--host", "nowhere.invalid", "--insecure"), ("nowhere.invalid",)),
        (("--certfile", "missing.pem"), ("certfile", "missing.pem", "does not exist")),
        (("--keyfile", "key.pem"), ("keyfile", "certfile")),
        (("--config", "missing.toml"), ("missing.toml", "does not exist")),
        (("--db", "/nowhere/at/all.db"), ("db", "folder", "does not exist")),
        (("--db", "."), ("db", "folder")),
        (("--cors-origin", "*"), ("cors_origins", "open mode")),
        (("--cors-origin", "app.example.org"), ("cors_origins", "app.example.org")),
        (("--trusted-proxy", "proxy"), ("trusted_proxies", "proxy")),
        (("--allowed-host", "https://a.example"), ("allowed_hosts", "https://a.example")),
        (("--public-url", "chat.example.org"), ("public_url", "chat.example.org")),
        (("--log-format", "xml"), ("log_format", "xml", "json")),
        (("--set", "max_bdy=1"), ("max_bdy", "max_body")),
        (("--set", "max_body=lots"), ("max_body", "lots", "KiB".lower(), "from --set max_body)")),
        (("--set", "drain_time=-1s"), ("drain_time", "'-1s'", "least value, 0")),
        (("--api-key", "sha256:short"), ("api_keys", "from --api-key)")),
        (("--set", "ping_interval=0"), ("ping_interval",)),
        (("--set", "max_connections=10000000"), ("max_connections", "ulimit")),
        (("--set", "default_topics=no spaces"), ("default_topics", "no spaces")),
        (("--set", "ephemeral_topics=a.>.b"), ("ephemeral_topics", "a.>.b")),
    ],
)
def test_bad_settings(arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    """A bad setting gives one line that names the setting, the value and the way out."""
    fails(run("serve", "--port", "0", *arguments, cwd=tmp_path), *words)


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is not a settings file, a certificate or a database gives one line each."""
    broken = tmp_path / "broken"
    broken.write_text("this is = not [ anything\n" * 50)
    fails(run("serve", "--config", str(broken)), str(broken), "TOML")
    fails(run("serve", "--port", "0", "--db", ":memory:", "--certfile", str(broken)), str(broken), "PEM")
    fails(run("serve", "--port", "0", "--db", str(broken)), str(broken), "not an SQLite database")
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE bills (amount)")
    connection.commit()
    connection.close()
    fails(run("serve", "--port", "0", "--db", str(foreign)), str(foreign), "another program")


def test_no_such_option() -> None:
    """An unknown option is refused with exit code 2 and without a stack trace."""
    done = run("serve", "--prot", "1")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.check
def test_second_server_on_one_database(tmp_path: Path) -> None:
    """A second server on the same database file refuses to start."""
    db = str(tmp_path / "partyline.db")
    first = subprocess.Popen(
        command("serve", "--port", "0", "--db", db, "--log-format", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline()
        fails(run("serve", "--port", "0", "--db", db), db, "in use by another server", "--db")
    finally:
        first.terminate()
        first.communicate()
    assert first.returncode == 0


def test_what_serve_prints(tmp_path: Path) -> None:
    """In a terminal or not, serve shows where it listens, its database and sync mode, its limits and who may
    connect."""
    process = subprocess.Popen(
        command("serve", "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**environment(), "COLUMNS": "40"},
    )
    try:
        assert process.stdout is not None
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
    text = "".join(lines)
    assert "http://127.0.0.1:" in lines[0]
    assert "http://127.0.0.1:0" not in text
    for word in ("./partyline.db", "synchronous=FULL", "descriptors", "this machine only", "loopback"):
        assert word in text
    assert any(line.endswith("1MB a message, 1MiB a body, heartbeat 25 + 20 s\n") for line in lines)
    assert not any(line.endswith(" \n") for line in lines)
    assert "\x1b" not in text  # colour is for terminals


def test_config_shows_where_values_come_from(tmp_path: Path) -> None:
    """`config --show` lists every setting with its value and its source: default, file, environment, flag."""
    file = tmp_path / "settings.toml"
    file.write_text('max_body = "2MiB"\ndefault_topics = ["a", "b"]\nping_interval = 5\n')
    done = run(
        "config", "--show", "--config", str(file), "--set", "port=9000", "--json", PARTYLINE_PING_INTERVAL="500ms"
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["max_body"] == {"value": 2 * 1024 * 1024, "source": str(file)}
    assert shown["default_topics"] == {"value": ["a", "b"], "source": str(file)}
    assert shown["ping_interval"] == {"value": 0.5, "source": "PARTYLINE_PING_INTERVAL"}
    assert shown["port"] == {"value": 9000, "source": "--set port"}
    assert shown["host"] == {"value": "127.0.0.1", "source": "default"}
    table = run("config", "--show", "--config", str(file))
    assert table.returncode == 0
    for name in shown:
        assert name in table.stdout


def test_lines_are_for_grep(tmp_path: Path) -> None:
    """If standard output is not a terminal, nothing is wrapped and no line ends with blanks: each setting has its line,
    with sizes and times in the form that the settings file takes."""
    done = run("config", COLUMNS="40")
    lines = done.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) == 1 + len(json.loads(run("config", "--json").stdout))
    assert any(re.fullmatch("jwt_max_life +24h +default +longest life of a token", line) for line in lines)
    assert any(line.split()[:2] == ["max_body", "1MiB"] for line in lines)


def test_config_never_shows_a_key() -> None:
    """A key's hash is cut short in what `config` prints."""
    made = json.loads(run("key", "--json").stdout)
    for arguments in (("--json",), ()):
        done = run("config", "--show", *arguments, PARTYLINE_API_KEYS=made["hash"])
        assert done.returncode == 0, done.stderr
        assert made["hash"][:15] in done.stdout
        assert made["hash"] not in done.stdout
        assert made["key"] not in done.stdout


def test_plain_key_in_settings_is_refused(tmp_path: Path) -> None:
    """A settings file holds hashes: a plain key in it is refused, and the message does not repeat it."""
    file = tmp_path / "settings.toml"
    file.write_text('api_keys = ["pl_secret_key"]\n')
    done = run("serve", "--config", str(file))
    fails(done, "api_keys", "partyline key")
    assert "pl_secret_key" not in done.stderr


def test_publish_without_a_server() -> None:
    """Publishing where no server listens gives one line and exit code 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run("publish", "cats", "hello", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be reached" in done.stderr


@pytest.mark.check
def test_a_key_that_can_be_guessed() -> None:
    """`serve` with a plain key of fewer than 16 characters starts, and warns about the key without showing it."""
    for key, warned in (("secret", True), ("s" * 16, False), ("sha256:" + "0" * 64, False)):
        process = subprocess.Popen(
            command("serve", "--port", "0", "--db", ":memory:", "--log-format", "json", "--api-key", key),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert ("fewer than 16 characters can be guessed" in errors) is warned
        assert key not in errors


def test_help_names_the_commands() -> None:
    """`partyline --help` lists the commands, and -h does the same; both work for each command, too."""
    done = run("--help")
    assert run("-h").stdout == done.stdout
    assert run("tail", "-h").stdout == run("tail", "--help").stdout != ""
    for name in ("serve", "backup", "restore", "doctor", "config", "publish", "tail", "key", "token", "version"):
        assert name in done.stdout
    assert run("version").stdout.startswith("partyline 0.")
    assert run("--version").stdout == run("version").stdout
