"""engine.io-client from npm, of both protocols, over each transport and across the upgrade."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from partyline.engineio.connection import EngineConnection
from tests import tools
from tests.server.servers import nothing_is_held

from .clients import Watched, served

pytestmark = pytest.mark.check

PACKAGES = {"engine.io-client": "engine.io-client@6.6.8", "engine.io-client-3": "engine.io-client@3.5.6"}
HERE = Path(__file__).parent
WAYS = {
    "polling": (["polling"], {}),
    "websocket": (["websocket"], {}),
    "upgrade": (["polling", "websocket"], {}),
    "base64": (["polling"], {"forceBase64": True}),
}


class Echo(Watched):
    """Closes the connection when the client says `end`."""

    def message(self, connection: EngineConnection, data: str | bytes) -> None:
        if data == "end":
            connection.close()
        else:
            super().message(connection, data)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("package", PACKAGES)
def test_an_echo(package: str, way: str) -> None:
    """Every message is echoed in order, text and binary, across heartbeats and on each transport; then we close."""
    node, folder = tools.program("node"), tools.node_packages("engineio", PACKAGES)
    transports, options = WAYS[way]
    version_3 = package.endswith("-3")
    echo = Echo(version_3=version_3, ping_timeout=20.0)
    asked: dict[str, Any] = {"path": "/engine.io/", "transports": transports, "options": options}
    asked |= {"messages": 200, "burst": 7, "pause": 2, "beats": 3}

    async def main() -> dict[str, Any]:
        async with served(echo) as (partyline, url):
            command = [node, str(HERE / "client.cjs"), str(folder / package), json.dumps({**asked, "url": url})]
            client = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(25):
                out, err = await client.communicate()
            assert client.returncode == 0, err.decode()
            await nothing_is_held(partyline)
            told: dict[str, Any] = json.loads(out)
            return told

    told = asyncio.run(main())
    assert told["order"]
    assert (told["got"], told["binary"]) == (200, 40)
    assert told["transports"] == transports[:1] + (["websocket"] if way == "upgrade" else [])
    assert told["reason"] == "transport close"
    assert echo.seen[0] == "connect"
    assert echo.seen[-1] in ("forced close", "transport close")
    assert len(echo.seen) == 202
