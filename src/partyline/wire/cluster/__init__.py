"""The messages between nodes of a cluster, sans-IO: `messages`, and the forms that other servers speak.

`classic`, `family` (with `sharded` and `streams` around it) and `python` each write these messages as bytes for a
channel and read them back. Peers are untrusted: whatever cannot be read is refused.
"""
