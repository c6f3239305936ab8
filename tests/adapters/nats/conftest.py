"""What the tests of NATS share with those of the server: a certificate, and both loops."""

from tests.server.conftest import certificate, run

__all__ = ["certificate", "run"]
