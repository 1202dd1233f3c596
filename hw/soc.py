"""The system on a chip: core and link endpoint, with main memory and the byte link outside."""

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .isa import ErrorCode, Queue

__all__ = ["DirectSignature"]


class DirectSignature(wiring.Signature):
    """Control of the core beside the link, as its initiator (a simulator) sees it.

    The members mean what they mean in `ControlSignature`. `watchdog` holds for all runs, where it
    is smaller than the link's.
    """

    def __init__(self):
        super().__init__({
            "start": Out(stream.Signature(32)),
            "cancel": Out(1),
            "watchdog": Out(32),
            "busy": In(1),
            "error": In(ErrorCode),
            "error_queue": In(Queue),
            "error_address": In(32),
        })
