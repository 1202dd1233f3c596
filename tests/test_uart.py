"""The UART, by `benches/uart_bench.py`, and its arithmetic."""

import pytest

from systolith.hw.link.uart import Uart, baud_step
from systolith.sim.bench import run_bench


@pytest.mark.parametrize(("clock", "baud"), [(25e6, 3e6), (100e6, 3e6), (12e6, 115_200)])
def test_uart(clock, baud):
    run_bench(Uart(clock, baud), "benches.uart_bench",
              parameters={"clock": clock, "baud": baud}, name="uart")


def test_step_is_the_share_of_a_bit_in_a_cycle():
    assert baud_step(65536e3, 1e3) == 1 and baud_step(8e6, 1e6) == 8192


@pytest.mark.parametrize(("clock", "baud", "message"), [
    (25e6, 4e6, r"between 1 and an eighth of the clock \(3125000\), not 4000000"),
    (25e6, 0, "between 1 and an eighth"),
    (100e6, 2200, "% off, choose a higher one"),
])
def test_impossible_rates_are_refused(clock, baud, message):
    with pytest.raises(ValueError, match=message):
        baud_step(clock, baud)
