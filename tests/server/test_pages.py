"""Pages of an application beside the relay: what is served, how, and who may ask for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from partyline import ConfigError, Pages
from partyline.server.pages import OWN_ONLY
from tests.server.peers import connected, request
from tests.server.servers import partyline_server

FOLLOWED = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("index.html", "about.html", "page.css", "page.js", "picture.svg", "data.unheard-of", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "within").mkdir()
    (tmp_path / "within" / "more.html").write_text("more")
    return tmp_path


def test_files(folder: Path) -> None:
    """Each file is served at its name, the index at the folder's, with its type, the policy and no sniffing, and
    nothing else is."""
    types = {
        "/app/": ("index.html", "text/html; charset=utf-8"),
        "/app/about.html": ("about.html", "text/html; charset=utf-8"),
        "/app/page.css": ("page.css", "text/css; charset=utf-8"),
        "/app/page.js": ("page.js", "text/javascript; charset=utf-8"),
        "/app/picture.svg": ("picture.svg", "image/svg+xml"),
        "/app/data.unheard-of": ("data.unheard-of", "application/octet-stream"),
    }
    missing = ["/", "/app", "/app/index.html", "/app/.hidden", "/app/within/more.html", "/app/../about.html", "/app//"]

    async def main() -> None:
        async with partyline_server(extras=[Pages(folder, path="/app/")]) as (_, url), connected(url) as peer:
            for path, (body, kind) in types.items():
                await peer.send(request("GET", path))
                answer = await peer.answer()
                assert (answer.status, answer.body.decode(), answer.headers["content-type"]) == (200, body, kind)
                assert answer.headers["content-security-policy"] == OWN_ONLY
                assert answer.headers["x-content-type-options"] == "nosniff"
            for path in missing:
                await peer.send(request("GET", path))
                assert (await peer.answer()).status == 404, path
            await peer.send(request("POST", "/app/", b"{}"))
            assert (await peer.answer()).status == 405

    asyncio.run(main())


def test_links_of_other_sites(folder: Path) -> None:
    """A link on another site leads to the HTML files; scripts, other methods and the relay stay closed to that site."""
    cases = [
        ("GET", "/", FOLLOWED, 200),
        ("GET", "/about.html", FOLLOWED, 200),
        ("GET", "/page.js", FOLLOWED, 403),
        ("GET", "/health", FOLLOWED, 403),
        ("POST", "/", FOLLOWED, 403),
        ("GET", "/", FOLLOWED[:1], 403),
        ("GET", "/", [*FOLLOWED[:2], "Sec-Fetch-Dest: iframe"], 403),
        ("GET", "/", [*FOLLOWED, "Origin: https://elsewhere.example"], 403),
        ("GET", "/", ["Sec-Fetch-Site: none"], 200),
    ]

    async def main() -> None:
        async with partyline_server(extras=[Pages(folder)]) as (_, url), connected(url) as peer:
            for method, path, headers, status in cases:
                await peer.send(request(method, path, b"{}" if method == "POST" else None, *headers))
                assert (await peer.answer()).status == status, (method, path, headers)

    asyncio.run(main())


def test_wrong_arguments(tmp_path: Path) -> None:
    """A missing folder and a path without its slashes are refused with the reason."""
    with pytest.raises(ConfigError, match="nowhere cannot be read: No such file"):
        Pages(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="must begin and end with a slash"):
        Pages(tmp_path, path="/app")
