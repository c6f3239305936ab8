"""The compose files hold together: what they set are settings, and their numbers fit each other and the defaults."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from partyline import Settings, load
from partyline.engines import BUSES, LOGS
from tests import tools

FOLDER = tools.ROOT / "deploy" / "compose"
PAIRINGS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")

pytestmark = pytest.mark.check


def read(name: str) -> dict[str, Any]:
    """A compose file, with what has to be given given."""
    tools.package("yaml")
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    text = text.replace(
        "${PARTYLINE_API_KEYS:?make a key with `partyline key`, and give its hash}", f"sha256:{'0' * 64}"
    )
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "secret", text)
    found: dict[str, Any] = import_module("yaml").safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return found


def servers(pairing: dict[str, Any]) -> dict[str, Settings]:
    """The settings of its servers, by service."""
    shared = read("base")["services"]["server"]["environment"]
    return {
        name: load(environ=shared | service["environment"]).settings
        for name, service in pairing["services"].items()
        if service.get("extends", {}).get("service") == "server"
    }


def test_every_engine_has_its_file() -> None:
    """There is one for workers, one for each engine of a log, and one for Valkey."""
    engines = {module.removeprefix("partyline.adapters.").split(".")[0].split("_")[0] for module, _ in LOGS.values()}
    assert set(PAIRINGS) == engines | {"valkey", "workers"}


@pytest.mark.parametrize("name", PAIRINGS)
def test_it_holds_together(name: str) -> None:
    """Servers have valid settings and an engine among the services; the proxy knows each of them, waits longer than a
    heartbeat may take, lets the largest body through, and its headers count; a stop waits for the drain."""
    pairing, base = read(name), read("base")
    found = servers(pairing)
    assert len(found) == (1 if name == "workers" else 2)
    proxy = next(one for one in pairing["services"]["proxy"]["volumes"])
    conf = (FOLDER / Path(proxy.split(":")[0]).name).read_text("utf-8")
    port = next(iter(found.values())).port
    assert re.findall(r"^\s+server (\S+);", conf, re.MULTILINE) == [f"{one}:{port}" for one in found]
    listens = re.search(r"listen (\d+);", conf)
    assert listens
    assert base["services"]["proxy"]["ports"] == [f"{listens[1]}:{listens[1]}"]
    (network,) = pairing["networks"]["inside"]["ipam"]["config"]
    grace = int(base["services"]["server"]["stop_grace_period"].removesuffix("s"))
    for settings in found.values():
        assert settings.trusted_proxies == (network["subnet"],)
        assert settings.require_durability == "power-cut"
        assert grace > settings.drain_time
        waits = [int(seconds) for seconds in re.findall(r"proxy_(?:read|send)_timeout (\d+)s", conf)]
        assert waits
        assert min(waits) > settings.ping_interval + settings.ping_timeout
        assert f"client_max_body_size {settings.max_batch_body // 1024**2}m;" in conf
        if name == "workers":
            assert settings.workers == 0
            assert settings.log is None
        else:
            engine = urlsplit(settings.log or "")
            assert engine.scheme in LOGS
            assert engine.scheme in BUSES
            assert engine.hostname in pairing["services"]
            assert "kept" in str(pairing["services"][engine.hostname]["volumes"])


@pytest.mark.parametrize("name", PAIRINGS)
def test_it_says_how_it_was_checked(name: str) -> None:
    """Each file says what it promises, how to start it, and how it was checked."""
    head = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()[:3]
    assert "survives a power cut" in head[0]
    assert f"-f deploy/compose/{name}.yaml up" in head[1]
    assert head[2].startswith("# Checked with")
