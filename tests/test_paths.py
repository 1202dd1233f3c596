"""The slowest paths of a placed design (benchmarks/paths.py)."""

import pytest
from benchmarks.paths import place, slowest

from systolith.errors import BuildError
from systolith.hw.config import PRESETS


def flip_flop(name):
    return (f"(INSTANCE {name})", "(IOPATH CLK Q (430:477:525) (430:477:525))",
            "(SETUPHOLD (posedge DI) (posedge CLK) (0:0:10) (0:0:900))",
            "(SETUPHOLD (negedge DI) (posedge CLK) (0:0:0) (0:0:900))")


def wire(source, target, delay):
    return f"(INTERCONNECT {source} {target} ({delay}:{delay}:{delay}) ({delay}:{delay}:{delay}))"


def cell(*pins):
    return ("(INSTANCE lut)", *(f"(IOPATH {pin} F (1:1:{delay}) (1:1:{delay}))"
                                for pin, delay in pins))


def test_the_slowest_way_into_each_register_is_found():
    routes = slowest([
        wire("pll/O", "a_1/CLK", 0), wire("pll/O", "b/CLK", 0), wire("pll/O", "c/CLK", 0),
        wire("other/O", "d/CLK", 0),
        wire("a_1/Q", "lut/A", 100), wire("b/Q", "lut/B", 300), wire("d/Q", "lut/C", 50),
        wire("lut/F", "c/DI", 1000), wire("a_1/Q", "b/DI", 40), wire("a_1/Q", "d/DI", 9000),
        *cell(("A", 400), ("B", 236), ("C", 200)),
        *(line for name in ("a_1", "b", "c", "d") for line in flip_flop(name))])
    assert [route.picoseconds for route in routes] == [525 + 300 + 236 + 1000 + 10, 525 + 40 + 10]
    assert routes[0].pins == (
        ("b/Q", 525), ("lut/B", 825), ("lut/F", 1061), ("c/DI", 2061))
    assert [route.kind for route in routes] == [("b/Q", "c/DI"), ("a#/Q", "b/DI")]


def test_a_loop_ends_the_search():
    routes = slowest([
        wire("pll/O", "a/CLK", 0), wire("a/Q", "lut/A", 100), wire("lut/F", "lut/B", 1),
        wire("lut/F", "a/DI", 1), *cell(("A", 5), ("B", 5)), *flip_flop("a")])
    assert not routes


def test_other_chips_are_refused(tmp_path):
    with pytest.raises(BuildError, match="icebreaker has no ECP5"):
        place("icebreaker", PRESETS["icebreaker"], None, tmp_path)
