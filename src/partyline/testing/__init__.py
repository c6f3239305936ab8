"""For tests of and with Partyline: contract suites, fakes, clocks."""

from partyline.testing.bus import BUS_CHECKS, MemoryNetwork, check_bus
from partyline.testing.clock import Clock
from partyline.testing.cluster import MemoryCluster
from partyline.testing.memory_log import MemoryLog
from partyline.testing.saboteur import SaboteurStore
from partyline.testing.shared import SHARED_CHECKS, check_shared_store
from partyline.testing.store import STORE_CHECKS, check_store
from partyline.testing.tables import TABLE_CHECKS, MemoryTables, check_tables

__all__ = [
    "BUS_CHECKS",
    "SHARED_CHECKS",
    "STORE_CHECKS",
    "TABLE_CHECKS",
    "Clock",
    "MemoryCluster",
    "MemoryLog",
    "MemoryNetwork",
    "MemoryTables",
    "SaboteurStore",
    "check_bus",
    "check_shared_store",
    "check_store",
    "check_tables",
]
