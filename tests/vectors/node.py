"""The npm parsers through node: what the scripts beside this file print, and values that JSON cannot write."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests import tools
from tests.vectors.packages import PACKAGES

HERE = Path(__file__).parent
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def run(script: str, asked: object = None) -> Any:
    """Run a script with `asked` as JSON on its standard input, and read the JSON it prints."""
    folder = tools.node_packages("parsers", PACKAGES)
    command = [tools.program("node"), str(HERE / script), str(folder)]
    done = subprocess.run(command, input=json.dumps(to_plain(asked)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def to_plain(value: Any) -> Any:
    """`value` as JSON can write it; `from_plain` is the way back."""
    if isinstance(value, bytes):
        return {"$binary": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(value: Any) -> Any:
    """What a script printed; `undefined` becomes None."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, dict):
        match value:
            case {"$binary": text}:
                return base64.b64decode(text)
            case {"$undefined": _}:
                return None
            case {"$date": milliseconds}:
                return EPOCH + timedelta(milliseconds=milliseconds)
        return {key: from_plain(item) for key, item in value.items()}
    return value


def vectors(name: str) -> Any:
    """The stored vectors of one parser, still plain."""
    return json.loads((HERE / f"{name}.json").read_text("utf-8"))
