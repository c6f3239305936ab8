"""A small HTTP client for tests: one request, its status and its JSON, off the loop."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit


async def call(
    url: str, method: str = "GET", body: Any = None, *, headers: dict[str, str] | None = None, tls: Any = None
) -> tuple[int, Any]:
    """Status and decoded JSON of one request. `body` is sent as JSON."""
    return await asyncio.to_thread(_call, url, method, body, headers or {}, tls)


def _call(url: str, method: str, body: Any, headers: dict[str, str], tls: ssl.SSLContext | None) -> tuple[int, Any]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=20, context=tls)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), payload, headers)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


async def register(url: str, user: int | str = 1, **fields: Any) -> str:
    """Register; the WebSocket address."""
    tls = fields.pop("tls", None)
    status, body = await call(f"{url}/register", "POST", {"user_id": user, **fields}, tls=tls)
    assert status == 200, body
    address: str = body["url"]
    return address


async def reached(url: str) -> None:
    """Wait until the server at `url` has reached its log."""
    async with asyncio.timeout(10):
        while (await call(f"{url}/health"))[0] != 200:
            await asyncio.sleep(0.01)
