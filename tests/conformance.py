"""Plays the numbered WebSocket cases against a live server over TCP; `make conformance` writes the table.

`python -m tests.conformance` starts our echo server; `--url ws://HOST:PORT/PATH` takes one that runs (it must
echo, with 16 MiB and 65,536 frames allowed in a message).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import track

from tests.tools import ROOT
from tests.wire.websocket.autobahn_cases import (
    CASES,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    Case,
    Output,
    OutputReader,
    settled,
    told,
)

TABLE = ROOT / "docs" / "reference" / "conformance.md"
GROUPS = {
    "1": "framing: sizes of text and binary messages",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "reserved opcodes",
    "5": "fragmentation, interleaved control frames",
    "6": "UTF-8, failing at the first bad byte",
    "7": "closing: order, codes, reasons",
    "9": "messages up to 16 MiB, whole and in fragments",
    "10": "a large message in fragments",
    "12": "permessage-deflate: kinds and sizes (sample)",
    "13": "permessage-deflate: parameters (sample)",
}


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Our echo server in a process of its own; gives its port."""
    command = [sys.executable, str(ROOT / "bench" / "servers" / "partyline_echo.py")]
    command += ["--max-message", str(MAX_MESSAGE), "--max-fragments", str(MAX_FRAGMENTS), "--compress-from", "126"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):  # to start; playing every case takes as long as the machine needs
            line = await process.stdout.readline()
        yield int(line.split()[1])
    finally:
        process.terminate()
        await process.wait()


async def play(case: Case, host: str, port: int, path: str = "/") -> str | None:
    """What went otherwise than the case expects; None if nothing did."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await _play(case, reader, writer, f"{host}:{port}", path)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            writer.close()


async def _play(
    case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str
) -> str | None:
    offer = "" if case.offer is None else f"Sec-WebSocket-Extensions: {case.offer}\r\n"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n".encode()
    )
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    if " 101 " not in status:
        return status
    agreed = headers.get("sec-websocket-extensions")
    if agreed != case.answer:
        return f"the answer to the offer is {agreed}"
    outputs = OutputReader(deflate=case.answer is not None, window_bits=case.window_bits)
    reading = asyncio.create_task(_read(reader, outputs))
    try:
        for chunk in case.send():
            writer.write(chunk)
            await writer.drain()
            if reading.done():
                break  # the server has failed the connection, and need not take the rest
    except ConnectionError:
        pass  # the same, seen from the other side
    got = told(settled(await reading, case.expect()))
    wanted = told(case.expect())
    return None if got == wanted else f"got {got}, wanted {wanted}"


async def _read(reader: asyncio.StreamReader, outputs: OutputReader) -> list[Output]:
    found: list[Output] = []
    while data := await reader.read(1 << 20):
        found += outputs.feed(data)
    return found


async def run(host: str, port: int, path: str = "/") -> dict[str, str | None]:
    """Every case, one after the other: what went wrong by case id, None where nothing did."""
    console = Console(stderr=True)
    bar = track(CASES, "cases", console=console, disable=not console.is_terminal, transient=True)
    return {case.id: await play(case, host, port, path) for case in bar}


def table(results: dict[str, str | None]) -> str:
    """The results by group, as Markdown."""
    lines = [
        "# WebSocket conformance",
        "",
        "Cases of our own that follow the numbering of the Autobahn test suite, played over TCP against the server",
        "(`make conformance` writes this page; `make check` plays them too).",
        "",
        "| group | what | cases | passed |",
        "| --- | --- | --- | --- |",
    ]
    for group, ids in groupby(results, lambda case_id: case_id.partition(".")[0]):
        listed = list(ids)
        passed = sum(results[case_id] is None for case_id in listed)
        lines.append(f"| {group} | {GROUPS[group]} | {len(listed)} | {passed} |")
    passed = sum(problem is None for problem in results.values())
    lines += [f"| | **all** | **{len(results)}** | **{passed}** |", ""]
    if passed < len(results):
        lines += ["Failed:", ""]
        lines += [f"- {case_id}: {problem[:300]}" for case_id, problem in results.items() if problem]
    return "\n".join(lines).rstrip() + "\n"


async def main(url: str | None, file: Path) -> int:
    if url is not None:
        parts = urlsplit(url)
        results = await run(parts.hostname or "127.0.0.1", parts.port or 80, parts.path or "/")
    else:
        async with echo_server() as port:
            results = await run("127.0.0.1", port)
    file.write_text(table(results), "utf-8")
    print(table(results))
    return sum(problem is not None for problem in results.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--file", type=Path, default=TABLE)
    chosen = parser.parse_args()
    sys.exit(1 if asyncio.run(main(chosen.url, chosen.file)) else 0)
