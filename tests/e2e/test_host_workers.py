"""Another ASGI server with several workers: one of them has the application, the others are refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests import tools
from tests.calls import call
from tests.process import environment
from tests.server.peers import WITHIN


@pytest.mark.parametrize("db", [":memory:", "partyline.db"])
@pytest.mark.parametrize("package", ["uvicorn", "hypercorn", "gunicorn"])
def test_a_second_worker_is_refused(package: str, db: str, tmp_path: Path) -> None:
    """Of two workers one serves, and the log says of the other one that one is to be run, with a file and without.
    Hypercorn and gunicorn (with uvicorn's worker) end them all then."""
    tools.package(package)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        bind = ["--port", str(port)] if package == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
        if package == "gunicorn":
            bind += ["--worker-class", "uvicorn_worker.UvicornWorker", "--no-control-socket"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", package, *bind, "--workers", "2", "partyline.asgi:app"),
            env={**environment(), "PYTHONPATH": str(tools.ROOT / "src"), "PARTYLINE_DB": db},
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(WITHIN):
                while b"run one worker" not in (line := await process.stderr.readline()):
                    assert line, "it ends without having said so"
            for _ in range(10 if package == "uvicorn" else 0):
                status, _ = await call(f"http://127.0.0.1:{port}/health")
                assert status == 200
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    asyncio.run(main())
