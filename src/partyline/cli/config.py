"""`partyline config --show`."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from rich.table import Table

from partyline.checking import check
from partyline.cli.output import console, write
from partyline.config import FIELDS, load
from partyline.notation import written

_MATERIAL = ("secret", "secret_file", "public_key", "public_key_file", "jwks_file", "jwks_url")
_PASSWORD = re.compile(r"(?<=://).*(?=@)")  # user and password, whatever characters they have
_SHOWN = (*_MATERIAL[1:], "kid", "audience", "issuer", "leeway", "admin")


def show_settings(assigned: dict[str, str], file: str | None, *, as_json: bool) -> None:
    """Print every setting, its value and its source. Raises ConfigError as `serve` would."""
    loaded = load(file=file, assigned=assigned)
    check(loaded.settings)
    values = {name: getattr(loaded.settings, name) for name in FIELDS}
    values["api_keys"] = [
        {"hash": key.hash[:15] + "...", "publish": key.publish, "subscribe": key.subscribe, "admin": key.admin}
        for key in loaded.settings.api_keys
    ]
    values["jwt_keys"] = [
        {
            **{name: getattr(key, name) for name in ("algorithm", *_SHOWN) if getattr(key, name) is not None},
            **({"secret": "[not shown]"} if key.secret is not None else {}),
        }
        for key in loaded.settings.jwt_keys
    ]
    if loaded.settings.log is not None:
        values["log"] = _PASSWORD.sub("[not shown]", loaded.settings.log)
    values["retention"] = [
        {name: value for name in ("topic", "max_age", "max_messages", "max_bytes") if (value := getattr(rule, name))}
        for rule in loaded.settings.retention
    ]
    if as_json:
        shown = {name: {"value": value, "source": loaded.sources[name]} for name, value in values.items()}
        write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    table.add_column("what it is", style="dim", overflow="fold")
    for name, value in values.items():
        source = loaded.sources[name]
        style = "" if source == "default" else "bold"
        about, kind = FIELDS[name].metadata["about"], FIELDS[name].metadata["kind"]
        table.add_row(name, _text(value, about, kind), source, about, style=style)
    console().print(table)


def _text(value: Any, about: str, kind: str) -> str:
    if value is None:
        return "auto" if "default" in about else "-"  # worked out at start, as `about` says
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(_item(item) for item in value) or "-"
    return written(value, kind) if isinstance(value, int | float) else str(value)


def _item(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    if "hash" in item:
        return str(item["hash"])
    if "algorithm" in item:
        return f"{item['algorithm']} from {next(name for name in item if name in _MATERIAL)}"
    kinds = {"max_age": "seconds", "max_messages": "count", "max_bytes": "bytes"}
    bounds = (f"{name}={written(item[name], kind)}" for name, kind in kinds.items() if name in item)
    return " ".join([item["topic"], *bounds])
