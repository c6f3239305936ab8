"""Socket.IO 5 and 4, sans-IO: `packets` (values, and JSON), `attachments`, `msgpack`, `namespaces` (who is in)."""
