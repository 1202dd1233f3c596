"""The slowest paths of a placed design, before its routing: `python -m benchmarks.paths BOARD`.

nextpnr's report names one path of a clock, and only after routing, which takes longer than all that
comes before it. This places a board's design without routing it, has nextpnr write every estimated
delay into an SDF file (IEEE 1497), and follows them from register to register. The slowest is the
one that nextpnr's own estimate of the clock comes from. Paths that differ in numbers alone, such as
bits of a word, are one line. ECP5 alone.
"""

import argparse
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from systolith.boards import floorplan, flow
from systolith.boards.build import board_named, identity, write_design
from systolith.errors import BuildError
from systolith.hw.config import Config, load_config
from systolith.sim.build import build_folder
from systolith.summary import terminal

__all__ = ["Route", "place", "show", "slowest"]

_LATEST = r"\(-?\d+:-?\d+:(-?\d+)\)"
_INSTANCE = re.compile(r"\(INSTANCE (\S+)\)")
_WIRE = re.compile(rf"\(INTERCONNECT (\S+)/(\w+) (\S+)/(\w+) {_LATEST}")
_THROUGH = re.compile(rf"\(IOPATH (\w+) (\w+) {_LATEST}")
_SETUP = re.compile(rf"\(SETUPHOLD \(\w+ (\w+)\) \(\w+ (\w+)\) {_LATEST}")
_CLOCK = re.compile(r"W?CLK\d?[AB]?|WCK")

Pin = tuple[str, str]
"""A cell's name and a pin's."""


@dataclass(frozen=True)
class Route:
    """From one register to the next: `picoseconds` with the setup time, and the pins on the way,
    each with its signal's arrival."""

    picoseconds: int
    pins: tuple[tuple[str, int], ...]

    @property
    def kind(self) -> tuple[str, str]:
        """First and last pin without numbers: the same for all bits of a word."""
        first, last = (re.sub(r"_TRELLIS_FF_Q(_\d+)?|[\d_$\\]+", "#", self.pins[end][0])
                       for end in (0, -1))
        return first, last


def slowest(lines: Iterable[str]) -> list[Route]:
    """Of an SDF file: the slowest path into each register's pin, the slowest first, where both
    registers have the same clock. A loop's pins, and what follows them, are left out."""
    follow: dict[Pin, list[tuple[Pin, int]]] = defaultdict(list)
    before: Counter[Pin] = Counter()
    setup: dict[Pin, int] = {}
    arrival: dict[Pin, int] = {}
    starts: dict[Pin, Pin] = {}
    clock: dict[Pin, Pin] = {}
    checked: dict[Pin, Pin] = {}
    cell = ""
    for line in lines:
        if found := _INSTANCE.search(line):
            cell = found[1]
        elif found := _WIRE.search(line):
            source, target = (found[1], found[2]), (found[3], found[4])
            clock[target] = source
            follow[source].append((target, int(found[5])))
            before[target] += 1
        elif found := _THROUGH.search(line):
            source, target, delay = (cell, found[1]), (cell, found[2]), int(found[3])
            if _CLOCK.fullmatch(found[1]):
                arrival[target] = max(delay, arrival.get(target, 0))
                starts[target] = source
            else:
                follow[source].append((target, delay))
                before[target] += 1
        elif found := _SETUP.search(line):
            pin = cell, found[1]
            setup[pin] = max(int(found[3]), setup.get(pin, 0))
            checked[pin] = cell, found[2]
    origin = {pin: clock.get(start) for pin, start in starts.items()}
    last: dict[Pin, Pin] = {}
    ready = deque(pin for pin in [*follow] if not before[pin])
    while ready:
        pin = ready.popleft()
        for target, delay in follow[pin]:
            if pin in arrival and arrival[pin] + delay > arrival.get(target, -1):
                arrival[target], last[target] = arrival[pin] + delay, pin
                origin[target] = origin[pin]
            before[target] -= 1
            if not before[target]:
                ready.append(target)
    found_routes = []
    for pin, margin in setup.items():
        if pin in last and origin[pin] == clock.get(checked[pin]):
            way = [pin]
            while way[-1] in last:
                way.append(last[way[-1]])
            found_routes.append(Route(arrival[pin] + margin, tuple(
                ("/".join(name), arrival[name]) for name in reversed(way))))
    return sorted(found_routes, key=lambda route: -route.picoseconds)


def place(name: str, config: Config, seed: int | None, folder: Path) -> Path:
    """Synthesize and place a board's design. Returns the SDF file.

    Raises `BuildError` as a build does, or for a chip that is no ECP5.
    """
    board = board_named(name)
    if board.family != "ecp5":
        raise BuildError(f"{name} has no ECP5: choose a board that has one")
    folder.mkdir(parents=True, exist_ok=True)
    placement = board.placement(config)
    platform = write_design(board, config, identity(board, config), folder)
    placement = replace(placement, seed=placement.seed if seed is None else seed)
    synthesis, placing, _ = flow.steps(board, platform, placement)
    flow.synthesize(board.family, synthesis, folder)
    if placement.corner:
        floorplan.lay_out_file(folder / "top.json", board.device, placement.corner)
    flow.run_step(replace(placing, command=(*placing.command, "--no-route", "--sdf", "top.sdf")),
                  folder)
    return folder / "top.sdf"


def show(console: Console, routes: list[Route], *, most: int) -> None:
    """Print the slowest paths of each kind."""
    kinds: dict[tuple[str, str], list[Route]] = defaultdict(list)
    for route in routes:
        kinds[route.kind].append(route)
    console.print(f"{1e6 / routes[0].picoseconds:.1f} MHz before routing")
    for alike in list(kinds.values())[:most]:
        route, earlier = alike[0], 0
        console.print(f"\n{route.picoseconds / 1e3:.2f} ns, {len(alike)} of this kind",
                      highlight=False)
        for pin, time in route.pins:
            console.print(f"  {time / 1e3:6.2f} +{(time - earlier) / 1e3:.2f} {pin}",
                          highlight=False, markup=False, soft_wrap=True)
            earlier = time


def main() -> None:
    """Place, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths", description=__doc__)
    parser.add_argument("board")
    parser.add_argument("--config", help="preset or file; the board's own by default")
    parser.add_argument("--seed", type=int, help="of placement; the build's by default")
    parser.add_argument("--most", type=int, default=10, help="kinds of paths that are shown")
    options = parser.parse_args()
    config = load_config(options.config or board_named(options.board).config)
    folder = build_folder() / "paths" / options.board
    with place(options.board, config, options.seed, folder).open() as lines:
        show(terminal(), slowest(lines), most=options.most)


if __name__ == "__main__":
    main()
