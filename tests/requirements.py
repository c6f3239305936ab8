"""Prints the packages of a dependency group of pyproject.toml, for pip versions that do not know groups yet."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def group(name: str) -> list[str]:
    """The requirements of the group `name`, without spaces, so that a shell may split them."""
    groups = tomllib.loads(PYPROJECT.read_text("utf-8"))["dependency-groups"]
    return [requirement.replace(" ", "") for requirement in groups[name]]


if __name__ == "__main__":
    print("\n".join(item for name in sys.argv[1:] for item in group(name)))
