"""What nodes of a cluster send each other, sans-IO: `messages`, and the forms that others speak.

`classic`, `family` (with `sharded` and `streams` around it) and `python` each write these messages as bytes for a
channel and read them back. What a peer sends is untrusted: whatever cannot be read is None.
"""
