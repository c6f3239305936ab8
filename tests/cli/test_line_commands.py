"""The commands that talk to a server: publish and tail, as processes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from rich.console import Console

from partyline.cli.tail import _Printer
from partyline.client import Message
from partyline.topics import is_printable
from tests.calls import call
from tests.process import command, environment, serving

pytestmark = pytest.mark.check


async def start(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
    """Run `partyline ...` with pipes."""
    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        **options,
    )


async def finish(process: asyncio.subprocess.Process, text: str = "") -> tuple[int | None, str, str]:
    """Exit code, output and errors."""
    async with asyncio.timeout(20):
        out, err = await process.communicate(text.encode())
    return process.returncode, out.decode(), err.decode()


async def publish(url: str, topic: str, *messages: Any) -> list[str]:
    """Publish over HTTP; the positions."""
    positions = []
    for message in messages:
        status, body = await call(f"{url}/v1/topics/{topic}/messages", "POST", {"data": message})
        assert status == 200
        positions.append(body["position"])
    return positions


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().rstrip("\n")


def test_publish_says_where_the_message_stands() -> None:
    """The text, JSON with --data, or standard input is published; the answer names the position, with --json all of
    it."""

    async def main() -> None:
        async with serving() as server:
            where = ("--url", server.url)
            code, out, err = await finish(await start("publish", "cats", "hello", *where))
            assert (code, err) == (0, "")
            assert out.startswith("published to cats at ")
            code, out, _ = await finish(await start("publish", "cats", '{"lives": 9}', "--data", "--json", *where))
            told = json.loads(out)
            assert (code, told["topic"], told["duplicate"]) == (0, "cats", False)
            code, out, _ = await finish(await start("publish", "cats", "-", *where), "two\nlines")
            assert code == 0
            _, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == ["hello", {"lives": 9}, "two\nlines"]
            assert page["messages"][1]["position"] == told["position"]
            assert page["messages"][1]["id"] == told["id"]

    asyncio.run(main())


def test_publish_many_lines() -> None:
    """--lines publishes each line of standard input, in order; one that cannot be published is named."""

    async def main() -> None:
        async with serving() as server:
            where = ("--url", server.url)
            text = "".join(f"line {number}\n" for number in range(1_000))
            code, out, err = await finish(await start("publish", "cats", "--lines", *where), text)
            assert (code, out, err) == (0, "published 1,000 messages to cats\n", "")
            _, page = await call(f"{server.url}/v1/topics/cats/messages?limit=1000")
            assert [message["data"] for message in page["messages"]] == text.splitlines()
            code, out, _ = await finish(await start("publish", "dogs", "--lines", "--json", *where), "a\nb\n")
            assert [json.loads(line)["topic"] for line in out.splitlines()] == ["dogs", "dogs"]
            code, out, err = await finish(await start("publish", "birds", "--lines", "--data", *where), "1\n2\nno\n")
            assert code == 1
            assert "line 3 is not JSON" in err
            code, out, err = await finish(await start("publish", "a b", "--lines", *where), "x\n")
            assert (code, out) == (1, "")
            assert err.startswith("partyline: line 1: topic 'a b' is not a topic name")

    asyncio.run(main())


def test_what_goes_wrong_is_one_line() -> None:
    """No server, a wrong address or a wrong topic gives exit code 1 or 2 and a sentence with advice, but no
    traceback."""

    async def main() -> None:
        for arguments, code, words in (
            (("publish", "cats", "x", "--url", "http://127.0.0.1:9"), 1, "is `partyline serve` running there?"),
            (("tail", "cats", "--url", "http://127.0.0.1:9"), 1, "is `partyline serve` running there?"),
            (("tail", "cats", "--url", "ftp://x"), 2, "is not an http(s) or ws(s) address"),
            (("tail", "cats", "--url", "127.0.0.1:8000"), 2, "did you mean http://127.0.0.1:8000?"),
            (("publish", "cats", "{", "--data"), 2, "it is not JSON"),
            (("publish", "cats", "x", "--lines"), 2, "--lines reads standard input"),
        ):
            done = await finish(await start(*arguments))
            assert done[0] == code, done
            assert words in " ".join(done[2].replace("│", " ").split()), done
            assert "Traceback" not in done[2]
        async with serving() as server:
            done = await finish(await start("tail", "a b", "--url", server.url))
            assert (done[0], done[1]) == (1, "")
            assert "is not a pattern" in done[2]
            done = await finish(await start("tail", "cats", "--from", "monday", "--url", server.url))
            assert done[0] == 1
            assert "'monday' is not a position" in done[2]
            away = f"{server.url}/away"
            for arguments in (("tail", "cats"), ("publish", "cats", "x")):
                done = await finish(await start(*arguments, "--url", away))
                assert (done[0], done[1]) == (1, "")
                assert done[2].startswith(
                    f"partyline: {away}: there is no WebSocket at this address: give the server's"
                )

    asyncio.run(main())


def test_a_server_that_wants_a_key() -> None:
    """Without a key, and with a wrong one, publish and tail name the option and the variable that provide one."""

    async def main() -> None:
        async with serving("--api-key", "a key of the test") as server:
            to = ("--url", server.url)
            for arguments in (("tail", "cats"), ("publish", "cats", "x"), ("publish", "cats", "--lines")):
                for key, words in (
                    ((), "the server wants a key or a token: give it one with --api-key or in PARTYLINE_KEY"),
                    (("--api-key", "x"), "this API key is not known here: it came from --api-key or PARTYLINE_KEY"),
                ):
                    done = await finish(await start(*arguments, *to, *key), "x")
                    assert done == (1, "", f"partyline: {server.url}: {words}\n")

    asyncio.run(main())


def test_tail_prints_what_comes() -> None:
    """Messages are printed one per line, escaped so that none controls the terminal; overlapping topics print each
    once."""

    async def main() -> None:
        async with serving() as server:
            await publish(server.url, "cats", "first")
            process = await start("tail", "cats", "*", "dogs", "--from", "earliest", "--url", server.url)
            assert (await line_of(process)).endswith(" cats first")
            await publish(server.url, "dogs", "\x1b[31mred\x1b]0;title\x07\n[bold]")
            assert (await line_of(process)).endswith(r" dogs \x1b[31mred\x1b]0;title\x07\n[bold]")
            await publish(server.url, "cats", {"lives": 9})
            assert (await line_of(process)).endswith(' cats {"lives": 9}')
            process.send_signal(signal.SIGINT)
            assert await finish(process) == (130, "", "")

    asyncio.run(main())


def test_tail_goes_on_over_numbers_that_nothing_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with a number that Python cannot hold is shown as it was published, with --json too (hostile 50)."""
    message = Message("cats", b"[1e400,%b]" % (b"9" * 4_400), None, "id", 0.0)
    for as_json in (False, True):
        _Printer(Console(stderr=True), as_json=as_json).show(message)
    shown, written = capsys.readouterr().out.splitlines()
    assert shown.endswith(f" cats {message.raw.decode()}")
    assert message.raw.decode() in written


def test_tail_shows_the_date_of_another_day(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal a message of another day has its date; one of today, and any message off a terminal, has the time
    only."""
    old, today = datetime(2001, 2, 3, 4, 5, 6).astimezone(), datetime.now().astimezone()
    for terminal, when, shown in (
        ("1", old, "2001-02-03 04:05:06 cats x"),
        ("1", today, f"{today:%H:%M:%S} cats x"),
        ("0", old, "04:05:06 cats x"),
    ):
        monkeypatch.setenv("TTY_COMPATIBLE", terminal)
        monkeypatch.setenv("NO_COLOR", "1")
        printer = _Printer(Console(stderr=True), as_json=False)
        printer.show(Message("cats", b'"x"', None, "1", when.timestamp()))
        assert re.sub("\x1b\\[[0-9]*m", "", capsys.readouterr().out) == shown + "\n"


def test_tail_as_json_can_be_resumed() -> None:
    """--json prints objects with positions; --from one of them goes on after it; --count ends by itself."""

    async def main() -> None:
        async with serving() as server:
            positions = await publish(server.url, "cats", *range(5))
            where = ("--json", "--url", server.url)
            code, out, err = await finish(await start("tail", "cats", "--from", "earliest", "--count", "2", *where))
            assert (code, err) == (0, "")
            told = [json.loads(line) for line in out.splitlines()]
            assert [(one["data"], one["position"]) for one in told] == [(0, positions[0]), (1, positions[1])]
            code, out, _ = await finish(await start("tail", "cats", "--from", positions[1], "--count", "3", *where))
            assert [json.loads(line)["data"] for line in out.splitlines()] == [2, 3, 4]
            gone = "0" * 16 + "-4"
            process = await start("tail", "cats", "--from", gone, "--count", "1", *where)
            gap = json.loads(await line_of(process))
            assert (gap["gap"], gap["position"]) == ("cats", positions[4])
            await publish(server.url, "cats", "and on")
            code, out, err = await finish(process)
            assert (code, json.loads(out)["data"]) == (0, "and on")
            assert "messages of cats were missed" in err

    asyncio.run(main())


def test_tail_over_a_restart(tmp_path: Path) -> None:
    """Standard error tells when the server is gone and when it is back; nothing is missed, nothing is printed twice."""

    async def main() -> None:
        db = tmp_path / "party.db"
        async with serving(db=db) as first:
            process = await start("tail", "cats", "--from", "earliest", "--json", "--url", first.url)
            await publish(first.url, "cats", 0)
            assert json.loads(await line_of(process))["data"] == 0
            await first.end(signal.SIGKILL)
        async with serving("--port", str(first.port), db=db) as second:
            await publish(second.url, "cats", 1, 2)
            assert [json.loads(await line_of(process))["data"] for _ in range(2)] == [1, 2]
            process.send_signal(signal.SIGINT)
            code, out, err = await finish(process)
            assert (code, out) == (130, "")
            assert "the connection is lost" in err
            assert "connected again" in err

    asyncio.run(main())


def test_tail_into_a_closed_pipe() -> None:
    """`partyline tail ... | head` ends quietly when head has enough."""

    async def main() -> None:
        async with serving() as server:
            await publish(server.url, "cats", *range(20))
            tail = " ".join(command("tail", "cats", "--from", "earliest", "--url", server.url))
            process = await asyncio.create_subprocess_shell(
                f"{tail} | head -n 2; exit ${{PIPESTATUS[0]}}",
                executable="/bin/bash",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
            )
            assert process.stdout is not None
            async with asyncio.timeout(20):
                assert (await process.stdout.readline()).endswith(b" cats 0\n")
                assert (await process.stdout.readline()).endswith(b" cats 1\n")
            await publish(server.url, "cats", *range(20))  # a pipe takes a while to break
            _, out, err = await finish(process)
            assert (out, err) == ("", "")

    asyncio.run(main())


def test_publish_does_not_wait_for_lines_that_do_not_come() -> None:
    """A line is published as soon as it arrives, and a refusal or Ctrl-C ends the command while standard input is
    open."""

    async def main() -> None:
        async with serving() as server:
            where = ("--lines", "--json", "--url", server.url)
            process = await start("publish", "cats", *where)
            assert process.stdin is not None
            for text in ("one", "two"):
                process.stdin.write(text.encode() + b"\r\n")
                assert json.loads(await line_of(process))["topic"] == "cats"
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(20):
                assert await process.wait() == 130
            _, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == ["one", "two"]
            process = await start("publish", "no spaces", *where)
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(b"x\n")
            async with asyncio.timeout(20):
                assert await process.wait() == 1
            assert "line 1: topic 'no spaces'" in (await process.stderr.read()).decode()

    asyncio.run(main())


@pytest.mark.parametrize("lines", [False, True], ids=["one", "lines"])
def test_publish_passes_json_on_as_it_is_written(lines: bool) -> None:
    """--data takes whatever JSON the server takes: numbers that Python cannot read arrive digit by digit, and half a
    character as U+FFFD."""
    written = {
        "1e400": "1e400",
        "9" * 4_400: "9" * 4_400,
        "1.50": "1.50",
        r'"\ud800"': r'"\ufffd"',
        " [1, 2] ": "[1,2]",
    }

    async def main() -> None:
        async with serving() as server:
            where = ("--data", "--url", server.url)
            if lines:
                text = "".join(f"{one}\n" for one in written)
                assert (await finish(await start("publish", "cats", "--lines", *where), text))[0] == 0
            else:
                for one in written:
                    code, _, err = await finish(await start("publish", "cats", one, *where))
                    assert (code, err) == (0, "")
            heard = await asyncio.to_thread(lambda: urlopen(f"{server.url}/v1/topics/cats/messages").read().decode())
            data = [part.partition("}")[0].partition(',"')[0] for part in heard.split('"data":')[1:]]
            assert data == [*written.values()]

    asyncio.run(main())


def test_publish_stops_at_a_line_that_is_none() -> None:
    """Lines before one that is not UTF-8 or not JSON are published and reported, later ones are not; the bad one is
    named."""

    async def main() -> None:
        async with serving() as server:
            for topic, flags, bad, words in (
                ("cats", (), b"\xff", "line 3 is not UTF-8"),
                ("dogs", ("--data",), b"{", "line 3 is not JSON"),
            ):
                process = await start("publish", topic, "--lines", "--json", *flags, "--url", server.url)
                async with asyncio.timeout(20):
                    out, err = await process.communicate(b"1\n2\n" + bad + b"\n4")
                assert process.returncode == 1
                told = [json.loads(line)["position"] for line in out.splitlines()]
                assert len(told) == 2
                assert words in err.decode()
                assert err.decode().endswith(f" (published before it: 2, the last one at {told[1]})\n")
                assert "Traceback" not in err.decode()
                _, page = await call(f"{server.url}/v1/topics/{topic}/messages")
                assert [str(message["data"]) for message in page["messages"]] == ["1", "2"]

    asyncio.run(main())


def test_tail_as_json_drives_no_terminal() -> None:
    """Control characters are escaped in --json, too, and still mean the same."""
    nasty = "\x7f\x9b31m \u202e \U000e0001 fine ü 🐈"

    async def main() -> None:
        async with serving() as server:
            assert (await finish(await start("publish", "cats", nasty, "--url", server.url)))[0] == 0
            process = await start("tail", "cats", "--from", "earliest", "--count", "1", "--json", "--url", server.url)
            _, out, _ = await finish(process)
            assert json.loads(out)["data"] == nasty
            assert is_printable(out.rstrip("\n"))
            assert "ü 🐈" in out

    asyncio.run(main())
