"""A UART: eight data bits, no parity, one stop bit, at any baud rate below an eighth of the clock.

Bit times are counted by a fractional accumulator, so that clock and baud rate need no common
factor; the error of a bit's middle is below one clock cycle.
"""

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["Uart", "UartReceiver", "UartTransmitter", "baud_step"]

_PHASE_BITS = 16
_BITS = 10  # start, data, stop


def baud_step(clock_hz: float, baud: float) -> int:
    """What is added each cycle to a phase of `_PHASE_BITS` bits that wraps once a bit.

    Raises ValueError when the rate is too high for the clock, or too low to be told from 0.
    """
    if not 0 < baud <= clock_hz / 8:
        raise ValueError(f"baud must be between 1 and an eighth of the clock "
                         f"({clock_hz / 8:.0f}), not {baud}")
    step = round(baud * (1 << _PHASE_BITS) / clock_hz)
    error = abs(step * clock_hz / (1 << _PHASE_BITS) / baud - 1)
    if error > 0.01:
        raise ValueError(f"baud {baud} cannot be made from a clock of {clock_hz:.0f} Hz: it would "
                         f"be {100 * error:.1f} % off, choose a higher one")
    return step


class UartReceiver(wiring.Component):
    """From a pin to bytes.

    The pin goes through an input register and a synchronizer before anything looks at it. A byte
    whose stop bit is missing is dropped, and so is one that comes while `o` is refused: the link's
    protocol asks for it again.

    Parameters
    ----------
    step : int
        See `baud_step`.

    Members
    -------
    pin : In(1)
    o : Out(stream of bytes)
    """

    def __init__(self, step: int):
        self._step = step
        super().__init__({"pin": In(1, init=1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        level = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.pin, level, init=1, stages=3)
        phase = Signal(_PHASE_BITS)
        wraps = Signal()
        data = Signal(8)
        left = Signal(range(_BITS + 1))     # bits to come, the start bit included
        m.d.comb += wraps.eq((phase + self._step)[_PHASE_BITS])

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(left == 0):
            # Half a bit from the edge to the middle of the start bit.
            m.d.sync += phase.eq(1 << (_PHASE_BITS - 1))
            with m.If(~level):
                m.d.sync += left.eq(_BITS)
        with m.Else():
            m.d.sync += phase.eq(phase + self._step)
            with m.If(wraps):
                m.d.sync += left.eq(left - 1)
                with m.If((left == _BITS) & level):
                    m.d.sync += left.eq(0)  # a glitch, not a start bit
                with m.Elif(left != 1):
                    m.d.sync += data.eq(Cat(data[1:], level))
                with m.Elif(level & (~self.o.valid | self.o.ready)):
                    m.d.sync += [self.o.payload.eq(data), self.o.valid.eq(1)]
        return m


class UartTransmitter(wiring.Component):
    """From bytes to a pin.

    Parameters
    ----------
    step : int
        See `baud_step`.

    Members
    -------
    i : In(stream of bytes)
    pin : Out(1)
    """

    def __init__(self, step: int):
        self._step = step
        super().__init__({"i": In(stream.Signature(8)), "pin": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        phase = Signal(_PHASE_BITS)
        wraps = Signal()
        shift = Signal(_BITS - 1, init=-1)
        left = Signal(range(_BITS + 1))
        m.d.comb += [
            wraps.eq((phase + self._step)[_PHASE_BITS]),
            self.i.ready.eq(left == 0),
        ]
        m.d.sync += self.pin.eq(shift[0])
        with m.If(left == 0):
            m.d.sync += phase.eq(0)
            with m.If(self.i.valid):
                m.d.sync += [shift.eq(Cat(Const(0, 1), self.i.payload)), left.eq(_BITS)]
        with m.Else():
            m.d.sync += phase.eq(phase + self._step)
            with m.If(wraps):
                m.d.sync += [shift.eq(Cat(shift[1:], Const(1, 1))), left.eq(left - 1)]
        return m


class Uart(wiring.Component):
    """Both directions of a serial line, with a buffer for what is received.

    Parameters
    ----------
    clock_hz, baud : float
    depth : int
        Bytes that may be received while the device does not take them.

    Members
    -------
    rx_pin : In(1), tx_pin : Out(1)
        The line, idle at 1.
    rx : Out(stream of bytes), tx : In(stream of bytes)
        As the device sees it: what came in, and what is to go out.
    """

    def __init__(self, clock_hz: float, baud: float, *, depth: int = 16):
        self._step = baud_step(clock_hz, baud)
        self._depth = depth
        super().__init__({
            "rx_pin": In(1, init=1),
            "tx_pin": Out(1, init=1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._step)
        m.submodules.transmitter = transmitter = UartTransmitter(self._step)
        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(width=8, depth=self._depth)
        m.d.comb += [receiver.pin.eq(self.rx_pin), self.tx_pin.eq(transmitter.pin)]
        wiring.connect(m, receiver.o, buffer.w_stream)
        wiring.connect(m, buffer.r_stream, wiring.flipped(self.rx))
        wiring.connect(m, wiring.flipped(self.tx), transmitter.i)
        return m
