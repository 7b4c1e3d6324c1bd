"""Test kit of the cdc toolkit: an in-memory transport, faults on demand, and the contract suite of transports."""

from ._version import __version__ as __version__
from .clock import VirtualClock as VirtualClock
from .faults import Crash as Crash
from .faults import CrashPoint as CrashPoint
from .faults import Delay as Delay
from .faults import Duplicate as Duplicate
from .faults import FailAfterStore as FailAfterStore
from .faults import Fault as Fault
from .faults import Hold as Hold
from .faults import InjectedCrash as InjectedCrash
from .faults import PoisonRow as PoisonRow
from .faults import Reject as Reject
from .idle import run_until_idle as run_until_idle
from .memory import MemoryTransport as MemoryTransport
from .memory_log import MemoryPosition as MemoryPosition
from .memory_source import Limits as Limits
from .recorder import Recorder as Recorder
