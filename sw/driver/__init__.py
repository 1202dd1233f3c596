"""The driver: opens devices and runs programs on them."""

from .device import Device
from .machine import Machine, RunResult
from .opening import open
from .records import LayerRun, RunRecord

__all__ = ["Device", "LayerRun", "Machine", "RunRecord", "RunResult", "open"]
