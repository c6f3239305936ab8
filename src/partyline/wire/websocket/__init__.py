"""RFC 6455 and RFC 7692, sans-IO: `handshake` (requests to answers), `connection` (bytes to events), `frames`."""
