"""What the commands do with a standard input that is not text, and a standard output that cannot be written."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from partyline.chat import extras
from tests.calls import call
from tests.process import command, environment
from tests.server.servers import partyline_server

from . import commands

FULL = Path("/dev/full")


async def run(*arguments: str | bytes, **more: Any) -> tuple[int, str, str]:
    """Exit code, output and errors of a command within this process, beside the test's own server."""
    done = await asyncio.to_thread(commands.run, *map(os.fsdecode, arguments), **more)
    return done.returncode, done.stdout, done.stderr


async def start(
    *arguments: str | bytes, text: bytes = b"", stdout: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """The same of a process of its own, with a file for its output."""

    def main() -> subprocess.CompletedProcess[bytes]:
        with open(stdout or "/dev/null", "wb") as file:
            return subprocess.run(
                [*command(), *arguments],
                input=text,
                stdout=file if stdout else subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=20,
                env=environment() | (env or {}),
                check=False,
            )

    done = await asyncio.to_thread(main)
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


NO_TEXT: list[tuple[tuple[str | bytes, ...], bytes, str]] = [
    (("publish", "cats", b"\xff"), b"", "the argument after cats is not UTF-8"),
    (("publish", "cats", "x", "--user", b"\xff"), b"", "the argument after --user is not UTF-8"),
    (("publish", "cats"), b"\xff\xfe", "standard input is not UTF-8"),
    (("publish", "cats"), b"", "standard input is empty: give the message as an argument"),
    (("publish", "cats", "-"), b"", "standard input is empty: give the message as an argument"),
]


def test_what_is_no_text_is_not_published() -> None:
    """Arguments and standard input that are not UTF-8, JSON that no server could read, and an empty standard input each
    give one line and exit code 2, and nothing is published; an empty argument is a message."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            to = ("--url", url)
            for arguments, text, words in NO_TEXT:
                code, out, err = await run(*arguments, *to, stdin=text)
                assert (code, out, err.count("\n")) == (2, "", 1), err
                assert err.startswith(f"partyline: {words}")
            for nothing in ("NaN", "[" * 50_000):
                code, out, err = await run("publish", "cats", nothing, "--data", *to)
                assert (code, out) == (2, "")
                assert "it is not JSON" in err
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert page["messages"] == []
            assert (await run("publish", "cats", "", *to))[0] == 0
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == [""]

    asyncio.run(main())


@pytest.mark.check
def test_standard_input_without_end_is_not_read() -> None:
    """Of a standard input that is longer than any message, and of a line that is, no more is read than that; one line
    says so, and nothing is published."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            for more, exit_code, words in (
                ((), 2, "has more than 16000000 bytes"),
                (("--lines",), 1, "has a line of more than 16000000 bytes"),  # lines before it may be published
            ):
                shell = ["sh", "-c", '"$@" </dev/zero', "sh", *command("publish", "cats", *more, "--url", url)]
                done = await asyncio.to_thread(
                    subprocess.run, shell, capture_output=True, text=True, timeout=20, env=environment(), check=False
                )
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1), done.stderr
                assert words in done.stderr
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert page["messages"] == []

    asyncio.run(main())


@pytest.mark.check
def test_what_is_no_text_is_not_published_by_a_process() -> None:
    """The same where Python decodes the arguments of a process, in the C locale."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            for arguments, text, words in NO_TEXT:
                code, out, err = await start(*arguments, "--url", url, text=text, env={"LC_ALL": "C"})
                assert (code, out, err.count("\n")) == (2, "", 1), err
                assert err.startswith(f"partyline: {words}")
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert page["messages"] == []

    asyncio.run(main())


OUTPUTS: list[tuple[tuple[str, ...], bytes, str]] = [
    (("publish", "cats", "x", "--url", "URL"), b"", "published to cats at "),
    (("publish", "cats", "x", "--json", "--url", "URL"), b"", "published to cats at "),
    (("publish", "cats", "--lines", "--url", "URL"), b"1\n2\n", "published 2 messages to cats"),
    (("tail", "cats", "--from", "earliest", "--url", "URL"), b"", ""),
    (("tail", "cats", "--from", "earliest", "--json", "--url", "URL"), b"", ""),
    (("chat", "URL"), b"", ""),
    (("config",), b"", ""),
    (("version",), b"", ""),
    (("--help",), b"", ""),
    (("tail", "--help"), b"", ""),
    ((), b"", ""),
]


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.check)])
def test_standard_output_is_full(process: bool) -> None:
    """If the output cannot be written, one line says so and what was done all the same; the exit code is 1."""

    async def main() -> None:
        async with partyline_server(extras=extras()) as (_, url):
            for arguments, text, words in OUTPUTS:
                given = [one.replace("URL", url) for one in arguments]
                if process:
                    code, _, err = await start(*given, text=text, stdout=FULL)
                else:
                    code, _, err = await run(*given, stdin=text, stdout=FULL)
                assert (code, err.count("\n")) == (1, 1), err
                assert err.startswith(f"partyline: {words}")
                assert err.endswith("standard output cannot be written: No space left on device\n")
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == ["x", "x", "1", "2"]

    asyncio.run(main())


@pytest.mark.check
@pytest.mark.parametrize("argument", ["--help", "version"])
def test_a_reader_that_is_gone(argument: str) -> None:
    """Where nobody reads the output any more, a command ends quietly with 0; so does the help, which Typer prints."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command(argument), stdout=writer, stderr=subprocess.PIPE, timeout=20, env=environment(), check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.check
def test_standard_output_of_a_server_is_full() -> None:
    """A server that cannot say where it listens does not start."""
    code, _, err = asyncio.run(start("serve", "--port", "0", "--db", ":memory:", stdout=FULL))
    assert (code, err) == (1, "partyline: standard output cannot be written: No space left on device\n")


def test_a_closed_standard_input_is_empty() -> None:
    """If standard input is closed from the start, publish says that it is empty."""
    shell = ["bash", "-c", '"$@" <&-', "bash", *command("publish", "cats")]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=20, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("partyline: standard input is empty")


def test_blanks_of_a_message_are_printed() -> None:
    """`tail` prints a message unchanged, with its trailing blanks."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            to = ("--url", url)
            assert (await run("publish", "cats", "x  ", *to))[0] == 0
            code, out, _ = await run("tail", "cats", "--from", "earliest", "--count", "1", *to)
            assert code == 0
            assert out.endswith(" cats x  \n")

    asyncio.run(main())


@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.check)])
def test_what_a_terminal_cannot_show_is_written_out(tmp_path: Path, process: bool) -> None:
    """Characters that the output's encoding lacks are written as escapes."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            to = ("--url", url)
            assert (await run("publish", "cats", "ü 🐈", *to))[0] == 0
            file = tmp_path / "out"
            tail = ("tail", "cats", "--from", "earliest", "--count", "1", *to)
            if process:
                latin = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
                code, _, err = await start(*tail, stdout=file, env=latin)
            else:
                code, _, err = await run(*tail, stdout=file, encoding="latin-1")
            assert (code, err) == (0, "")
            assert file.read_text("latin-1").endswith(" cats ü \\U0001f408\n")

    asyncio.run(main())
