"""The certificate for TLS."""

from tests.server.conftest import certificate

__all__ = ["certificate"]
