"""The loops that a server may run on, and a certificate."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests import tools

try:
    import uvloop
except ImportError:  # Windows, PyPy
    uvloop = None  # type: ignore[assignment]

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param("uvloop", marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not for this platform")),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on each of the loops: their transports differ in buffers, half-closing and TLS."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)

    return runner


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for 127.0.0.1 that only its own `trust` believes."""

    certfile: str
    keyfile: str

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certfile)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder: Path = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [tools.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=partyline test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=30)
    return Certificate(str(cert), str(key))
