"""The USB serial device, in simulation against a host at its wires."""

import pytest

from systolith.sim.bench import run_bench

pytest.importorskip("luna", reason="the USB link needs luna-usb")


def test_usb_serial():
    from systolith.boards.usb import UsbSerial

    run_bench(UsbSerial("a board"), "benches.usb_bench", parameters={"product": "a board"},
              timeout=120)
