"""The docs' examples work: Python blocks run, settings load, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import partyline
from partyline.checking import check
from tests.process import environment
from tests.tools import ROOT

DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(words: str) -> list[object]:
    """The blocks of docs whose info string is `words`, each named by its page and line."""
    found: list[object] = []
    for page in pages():
        text = page.read_text("utf-8")
        for match in _FENCE.finditer(text):
            if match[1].strip() == words:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{name(page)}:{line}"))
    return found


@pytest.mark.check
@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, tmp_path: Path) -> None:
    """A Python block runs unchanged as a script, within 20 seconds and without a warning."""
    script = tmp_path / "block.py"
    script.write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", blocks("toml settings"))
def test_settings(text: str, tmp_path: Path) -> None:
    """A block of settings loads as a settings file, and a server could be built from it."""
    file = tmp_path / "partyline.toml"
    file.write_text(text, "utf-8")
    loaded = partyline.load(file=str(file), environ={})
    assert str(file) in loaded.sources.values()
    check(loaded.settings)


def links(page: Path) -> Iterator[str]:
    text = _CODE.sub("", _FENCE.sub("", page.read_text("utf-8")))
    for match in _LINK.finditer(text):
        yield match[1] or match[2]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-") for match in _HEADING.finditer(text))
    return set(plain)


@pytest.mark.parametrize(
    "page", [*(ROOT / f"{one}.md" for one in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")), *pages()], ids=name
)
def test_links(page: Path) -> None:
    """Every relative link leads to a file or folder of the repository, and its anchor to a heading there."""
    broken: list[str] = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken
