"""Tries a wheel: installs it into an empty environment, away from the repository, and runs the quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def main(wheel: Path) -> None:
    """Raises where anything of it does not work."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"Installing {wheel.name} into an empty environment")
        venv.create(folder, with_pip=True)
        binaries = Path(folder) / "bin"
        pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(CONSTRAINTS), str(wheel)], check=True, cwd=folder)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PARTYLINE"))
        }
        program = str(binaries / "partyline")
        server = subprocess.Popen(
            [program, "serve", "--port", "0", "--log-format", "json"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["listening"]
            address = post(f"{url}/register", {"user_id": 1})["url"]
            assert address.startswith(url.replace("http", "ws") + "/ws/"), address
            for path in ("", "chat.css", "chat.js", "partyline.js"):  # what is no Python is in the wheel, too
                assert get(f"{url}/{path}"), path
            command = [program, "publish", "cats", "hello", "--url", url]
            printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment)
            print(printed.stdout.strip())
            assert (Path(folder) / "partyline.db").stat().st_mode & 0o777 == 0o600
        finally:
            server.terminate()
            assert server.wait(20) == 0
    print(f"{wheel.name} works without the repository")


def get(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
