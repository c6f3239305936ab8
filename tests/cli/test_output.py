"""What the commands do with a standard input that is not text, and a standard output that cannot be written."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.calls import call
from tests.process import command, environment, serving

FULL = Path("/dev/full")


async def run(
    *arguments: str | bytes, text: bytes = b"", stdout: str | Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, output and errors; `stdout` is a file for the output."""

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


def test_what_is_no_text_is_not_published() -> None:
    """Arguments and standard input that are not UTF-8, JSON that no server could read, and an empty standard input each
    give one line and exit code 2, and nothing is published; an empty argument is a message."""

    async def main() -> None:
        async with serving() as server:
            to = ("--url", server.url)
            for arguments, text, words in (
                (("publish", "cats", b"\xff", *to), b"", "the argument after cats is not UTF-8"),
                (("publish", "cats", "x", *to, "--user", b"\xff"), b"", "the argument after --user is not UTF-8"),
                (("publish", "cats", *to), b"\xff\xfe", "standard input is not UTF-8"),
                (("publish", "cats", *to), b"", "standard input is empty: give the message as an argument"),
                (("publish", "cats", "-", *to), b"", "standard input is empty: give the message as an argument"),
            ):
                code, out, err = await run(*arguments, text=text, env={"LC_ALL": "C"})
                assert (code, out, err.count("\n")) == (2, "", 1), err
                assert err.startswith(f"partyline: {words}")
            for nothing in ("NaN", '"\\ud800"', "[" * 50_000):
                code, out, err = await run("publish", "cats", nothing, "--data", *to)
                assert (code, out) == (2, "")
                assert "it is not JSON" in err
            _, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert page["messages"] == []
            assert (await run("publish", "cats", "", *to))[0] == 0
            _, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == [""]

    asyncio.run(main())


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_standard_output_is_full() -> None:
    """If the output cannot be written, one line says so and what was done all the same; the exit code is 1."""

    async def main() -> None:
        async with serving() as server:
            to = ("--url", server.url)
            for arguments, text, words in (
                (("publish", "cats", "x", *to), b"", "published to cats at "),
                (("publish", "cats", "x", "--json", *to), b"", "published to cats at "),
                (("publish", "cats", "--lines", *to), b"1\n2\n", "published 2 messages to cats"),
                (("tail", "cats", "--from", "earliest", *to), b"", ""),
                (("tail", "cats", "--from", "earliest", "--json", *to), b"", ""),
                (("chat", server.url), b"", ""),
                (("config",), b"", ""),
                (("version",), b"", ""),
                (("serve", "--port", "0", "--db", ":memory:"), b"", ""),
            ):
                code, _, err = await run(*arguments, text=text, stdout=FULL)
                assert (code, err.count("\n")) == (1, 1), err
                assert err.startswith(f"partyline: {words}")
                assert err.endswith("standard output cannot be written: No space left on device\n")
            _, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == ["x", "x", "1", "2"]

    asyncio.run(main())


def test_a_closed_standard_input_is_empty() -> None:
    """If standard input is closed from the start, publish says that it is empty."""
    shell = ["bash", "-c", '"$@" <&-', "bash", *command("publish", "cats")]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=20, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("partyline: standard input is empty")


def test_blanks_of_a_message_are_printed() -> None:
    """`tail` prints a message unchanged, with its trailing blanks."""

    async def main() -> None:
        async with serving() as server:
            to = ("--url", server.url)
            assert (await run("publish", "cats", "x  ", *to))[0] == 0
            code, out, _ = await run("tail", "cats", "--from", "earliest", "--count", "1", *to)
            assert code == 0
            assert out.endswith(" cats x  \n")

    asyncio.run(main())


def test_what_a_terminal_cannot_show_is_written_out(tmp_path: Path) -> None:
    """Characters that the output's encoding lacks are written as escapes."""

    async def main() -> None:
        async with serving() as server:
            to = ("--url", server.url)
            assert (await run("publish", "cats", "ü 🐈", *to))[0] == 0
            latin = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
            file = tmp_path / "out"
            code, _, err = await run("tail", "cats", "--from", "earliest", "--count", "1", *to, stdout=file, env=latin)
            assert (code, err) == (0, "")
            assert file.read_text("latin-1").endswith(" cats ü \\U0001f408\n")

    asyncio.run(main())
