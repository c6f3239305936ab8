"""The tutorials, unchanged: files are written, commands are typed into a shell, outputs are waited for."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from tests import tools
from tests.docs.test_readme import Block, Shell, blocks
from tests.process import environment

pytestmark = pytest.mark.check

PAGE = tools.ROOT / "docs" / "tutorials" / "socketio.md"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_socketio(tmp_path: Path) -> None:
    """Every command of the Socket.IO tutorial prints what the page says; its server has at most 40 lines of code."""
    tools.program("node")
    modules = tools.node_packages("tutorial", {"socket.io-client": "socket.io-client@4.8.3"})
    (tmp_path / "node_modules").symlink_to(modules)
    listed = list(blocks(PAGE))
    server = next(block.text for block in listed if block.file == "chat.py")
    assert sum(bool(line.strip()) for line in server.splitlines()) <= 40
    port = str(free_port())

    async def main() -> None:
        for block in listed:
            if block.file:
                (tmp_path / block.file).write_text(block.text.replace("8000", port))
        process = await asyncio.create_subprocess_exec(
            "bash",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
            env={
                **environment(),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONUNBUFFERED": "",
            },
        )
        shell = Shell(process)
        for block, after in zip(listed, [*listed[1:], Block("", "", "")], strict=True):
            if block.language == "bash" and "run" in block.words:
                shell.type(block.text)
                if after.language == "text":
                    await shell.expect(after.text.replace("8000", port).splitlines())
        shell.type("kill $(jobs -p) 2>/dev/null; wait; exit\n")
        async with asyncio.timeout(20):
            await process.communicate()

    asyncio.run(main())
