"""The loops that a server may run on."""

from tests.server.conftest import run

__all__ = ["run"]
