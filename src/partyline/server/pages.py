"""Pages of an application: the files of one folder, served beside the relay on the same port."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from partyline.errors import ConfigError
from partyline.server.site import Endpoint, Site, Upgrade

OWN_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A Content-Security-Policy: scripts, styles and connections of this server only, nothing inline, in nobody's frame."""


class Pages:
    """The files of a folder as pages, for `partyline.build(settings, extras=[...])`.

    They are read once, here, and served below `path`: `about.html` at `/about.html`, and `index.html` at `path` itself.
    Folders within are left out, and so are files whose names begin with a dot. `policy` is the
    Content-Security-Policy of every answer; the default lets a page load from this server only.
    Links on other sites may lead to the HTML files, while pages of other sites cannot fetch or frame them. Raises
    ConfigError where the folder cannot be read.
    """

    def __init__(self, folder: str | Path, *, path: str = "/", policy: str = OWN_ONLY) -> None:
        if not path.startswith("/") or not path.endswith("/"):
            raise ConfigError(f"path: {path!r} must begin and end with a slash, as /chat/", field="path")
        self._files: dict[str, tuple[bytes, dict[str, str]]] = {}
        try:
            for file in sorted(Path(folder).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    name = "" if file.name == "index.html" else file.name
                    headers = {"content-type": _type(file), "content-security-policy": policy}
                    self._files[path + name] = (file.read_bytes(), headers)
        except OSError as error:
            raise ConfigError(f"folder: {folder} cannot be read: {error.strerror}", field="folder") from None

    def attach(self, site: Site) -> None:
        site.pages.update(
            path for path, (_, headers) in self._files.items() if headers["content-type"].startswith("text/html")
        )

    def routes(self) -> Sequence[BaseRoute]:
        return [Route(path, self._answer, methods=["GET"]) for path in self._files]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        return None

    async def _answer(self, request: Request) -> Response:
        body, headers = self._files[request.url.path]
        return Response(body, headers=headers)


def _type(file: Path) -> str:
    # RFC 9239: scripts are text/javascript; Pythons and systems differ.
    scripts = file.suffix in (".js", ".mjs")
    kind = "text/javascript" if scripts else mimetypes.types_map.get(file.suffix.lower(), "application/octet-stream")
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
