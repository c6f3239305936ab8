"""Connections that carry messages between nodes. Each needs a package that is an extra of this one."""
