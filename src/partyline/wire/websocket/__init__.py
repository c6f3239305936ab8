"""RFC 6455 and RFC 7692, sans-IO: `handshake` (requests to answers), `codec` (bytes to events), `frames`."""
