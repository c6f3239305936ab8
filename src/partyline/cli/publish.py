"""`partyline publish`: one POST /publish."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import NoReturn

import typer


def publish_one(
    url: str, topic: str, message: str, *, user: str | None, key: str | None, is_json: bool, as_json: bool
) -> None:
    """Publish and say where the message stands. Exits with 1 and one line where the server says no."""
    data: object = message
    if is_json:
        try:
            data = json.loads(message)
        except ValueError as error:
            raise typer.BadParameter(f"it is not JSON: {error}", param_hint="MESSAGE") from None
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} is not an http or https address", param_hint="--url")
    body: dict[str, object] = {"topic": topic, "message": data}
    if user is not None:
        body["user_id"] = user
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        url.rstrip("/") + "/publish", json.dumps(body).encode(), headers, method="POST"
    )
    # No proxy of the environment: the server is named, and mostly on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            result = answer.read().decode()
    except urllib.error.HTTPError as error:
        _fail(_reason(error.read().decode(errors="replace"), error.code))
    except (urllib.error.URLError, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        _fail(f"{url} cannot be reached: {reason}; is `partyline serve` running there?")
    if as_json:
        sys.stdout.write(result + "\n")
    else:
        position = json.loads(result)["position"]
        sys.stdout.write(f"published to {topic}" + (f" at {position}" if position else ", not kept") + "\n")


def _reason(body: str, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"


def _fail(reason: str) -> NoReturn:
    sys.stderr.write(f"partyline: {reason}\n")
    raise typer.Exit(1)
