"""The link's physical layer: what carries its bytes between the board and a host.

A line has `rx : Out(stream of bytes)`, what came in, and `tx : In(stream of bytes)`, what is to go
out, in one clock, which is the board's oscillator. It takes its pins from the platform. Whatever
is behind these two streams does not matter to the rest of the design.
"""

from amaranth import Module
from amaranth.lib import io, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.errors import ConfigError
from systolith.hw.link.uart import Uart

from .board import Board, bare_pins

__all__ = ["UartLine", "line_of"]


class UartLine(wiring.Component):
    """A UART at the platform's resource `uart`.

    Parameters
    ----------
    clock_hz, baud : float
    """

    def __init__(self, clock_hz: float, baud: float):
        self._clock_hz = clock_hz
        self._baud = baud
        super().__init__({"rx": Out(stream.Signature(8)), "tx": In(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        pins = bare_pins(platform, "uart")
        m.submodules.rx_pin = rx_pin = io.Buffer("i", pins.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", pins.tx)
        m.submodules.uart = uart = Uart(self._clock_hz, self._baud)
        m.d.comb += [uart.rx_pin.eq(rx_pin.i), tx_pin.o.eq(uart.tx_pin)]
        wiring.connect(m, uart.rx, wiring.flipped(self.rx))
        wiring.connect(m, wiring.flipped(self.tx), uart.tx)
        return m


def line_of(board: Board, clock_hz: float) -> wiring.Component:
    """The line of a board, for an oscillator of `clock_hz`.

    Raises `ConfigError` when the board's USB connector is the line, which needs 48 MHz, and its
    oscillator has another frequency.
    """
    if board.baud is not None:
        return UartLine(clock_hz, board.baud)
    from .usb import CLOCK_HZ, UsbLine

    if clock_hz != CLOCK_HZ:
        raise ConfigError(f"{board.name} cannot have a link over USB: it needs an oscillator of "
                          f"{CLOCK_HZ / 1e6:g} MHz, not {clock_hz / 1e6:g}; give the board a baud "
                          "rate for a UART")
    return UsbLine(board.title)
