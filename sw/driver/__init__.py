"""The driver: opens devices and runs programs on them."""

from .device import Device
from .machine import Machine, RunResult
from .opening import open
from .pool import DevicePool
from .records import LayerRun, RunRecord

__all__ = ["Device", "DevicePool", "LayerRun", "Machine", "RunRecord", "RunResult", "open"]
