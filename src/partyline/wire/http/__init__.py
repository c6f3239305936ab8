"""HTTP/1.1 requests, sans-IO: heads, bodies, and the phases of a connection (RFC 9110, RFC 9112)."""
