"""What the tests of the chat run in Node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import tools

HERE = Path(__file__).parent
STATIC = tools.ROOT / "src" / "partyline" / "chat" / "static"
PACKAGES = {"socket.io": "socket.io@4.8.3", "ws": "ws@8.23.0"}


def modules() -> Path:
    """The npm packages that the scripts here require."""
    return tools.node_packages("chat", PACKAGES)


@contextmanager
def node_server(script: Path) -> Iterator[str]:
    """Run a server that prints its port as its first line; the URL."""
    with subprocess.Popen(
        [tools.program("node"), script, modules()], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()
