"""What tests of and with Partyline need: contract suites, fakes, clocks."""

from partyline.testing.clock import Clock
from partyline.testing.cluster import MemoryCluster
from partyline.testing.saboteur import SaboteurStore
from partyline.testing.store import STORE_CHECKS, check_store

__all__ = [
    "STORE_CHECKS",
    "Clock",
    "MemoryCluster",
    "SaboteurStore",
    "check_store",
]
