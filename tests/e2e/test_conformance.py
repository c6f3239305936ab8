"""The numbered WebSocket cases over TCP, against the echo server as a process."""

from __future__ import annotations

import asyncio

from tests.conformance import TABLE, echo_server, run, table


def test_every_case_over_tcp() -> None:
    """Every case passes over TCP, and the page that says so is what a run writes."""

    async def main() -> dict[str, str | None]:
        async with echo_server() as port:
            return await run("127.0.0.1", port)

    results = asyncio.run(main())
    assert {case_id: problem for case_id, problem in results.items() if problem} == {}
    assert TABLE.read_text("utf-8") == table(results)
