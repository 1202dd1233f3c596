"""What a synthesized netlist must satisfy between its clocks.

A signal may go from one clock to another only through a synchronizer, two registers in a row with
nothing between them, or as the data of a memory whose pointers do. Everything else that crosses is
found here, in the netlist that placement reads.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from systolith.errors import BuildError

__all__ = ["check_crossings", "crossings"]

_REGISTERS = {"TRELLIS_FF": "DI", **{
    f"DFF{edge}{reset}{enable}": "D"
    for edge in ("", "N") for reset in ("", "S", "R", "P", "C") for enable in ("", "E")}}
"""Data inputs of flip-flops: the ECP5's, and Gowin's."""

_MEMORIES = {"TRELLIS_DPR16X4": "RAD", "RAM16SDP4": "RAD"}
"""Memories that are read without a clock, by their address."""

_CLOCKS = {
    **dict.fromkeys(_REGISTERS, ("CLK",)), "TRELLIS_DPR16X4": ("WCK",), "RAM16SDP4": ("CLK",),
    "DP16KD": ("CLKA", "CLKB"), "MULT18X18D": ("CLK0",),
    "MULT9X9": ("CLK",), "MULT18X18": ("CLK",), "SP": ("CLK",), "SPX9": ("CLK",),
    **dict.fromkeys(("DPB", "DPX9B", "SDPB", "SDPX9B"), ("CLKA", "CLKB"))}
"""Clock inputs of cells with registers."""

_THROUGH = ("LUT4", "CCU2C", "PFUMX", "L6MUX21", "LUT1", "LUT2", "LUT3", "ALU",
            "MUX2_LUT5", "MUX2_LUT6", "MUX2_LUT7", "MUX2_LUT8")
_NOT_DATA = {"CLK", "CLKA", "CLKB", "CLK0", "WCK"}


class _Netlist:
    """Drivers, readers and names of a yosys JSON netlist's top module."""

    def __init__(self, path: Path):
        modules = json.loads(path.read_text())["modules"].values()
        top = next(module for module in modules if "top" in module["attributes"])
        self.cells: dict[str, Any] = top["cells"]
        self.driver: dict[int, str] = {}
        self.readers: dict[int, list[tuple[str, str]]] = {}
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                output = cell["port_directions"][port] == "output"
                for bit in bits:
                    if not isinstance(bit, int):
                        continue
                    if output:
                        self.driver[bit] = name
                    else:
                        self.readers.setdefault(bit, []).append((name, port))
        self.names: dict[int, str] = {}
        for name, net in top["netnames"].items():
            for bit in net["bits"]:
                if isinstance(bit, int) and len(name) < len(self.names.get(bit, name + "x")):
                    self.names[bit] = name

    def clocks(self, cell: str) -> set[int]:
        """Nets on a cell's clock inputs."""
        connections = self.cells[cell]["connections"]
        return {connections[port][0] for port in _CLOCKS.get(self.cells[cell]["type"], ())
                if isinstance(connections[port][0], int)}

    def inputs(self, cell: str, ports: set[str] | None = None) -> Iterator[int]:
        """Nets on a cell's data inputs, or on some of them."""
        for port, bits in self.cells[cell]["connections"].items():
            if (self.cells[cell]["port_directions"][port] == "input" and port not in _NOT_DATA
                    and (ports is None or port in ports)):
                yield from (bit for bit in bits if isinstance(bit, int))

    def sources(self, bit: int, known: dict[int, frozenset[str]]) -> frozenset[str]:
        """Cells with registers that a net depends on, through logic and memories' outputs."""
        if bit not in known:
            known[bit] = frozenset()
            cell = self.driver.get(bit)
            if cell is not None:
                kind = self.cells[cell]["type"]
                if kind in _THROUGH:
                    known[bit] = frozenset().union(
                        *(self.sources(other, known) for other in self.inputs(cell)))
                elif kind in _MEMORIES:
                    known[bit] = frozenset({cell}).union(*(
                        self.sources(other, known)
                        for other in self.inputs(cell, {_MEMORIES[kind]})))
                elif kind in _CLOCKS:
                    known[bit] = frozenset({cell})
        return known[bit]

    def output_name(self, cell: str) -> str:
        """The net that a register drives, or the memory's name, without yosys' endings."""
        bits = self.cells[cell]["connections"].get("Q")
        name = self.names.get(bits[0], cell) if bits else cell
        return re.sub(r"(\.\d+)*(_[A-Z0-9]+)*$", "", name)

    def is_synchronizer(self, cell: str) -> bool:
        """Whether a register takes its input as it is, and only a register of its clock takes
        its output, as it is."""
        data = _REGISTERS.get(self.cells[cell]["type"])
        if data is None:
            return False
        connections = self.cells[cell]["connections"]
        driver = self.driver.get(connections[data][0])
        direct = driver is not None and self.cells[driver]["type"] in _REGISTERS
        readers = self.readers.get(connections["Q"][0], [])
        return direct and bool(readers) and all(
            port == _REGISTERS.get(self.cells[reader]["type"])
            and self.clocks(reader) == self.clocks(cell) for reader, port in readers)

    def ends_reset(self, cell: str, port: str) -> bool:
        """Whether a register's input is an asynchronous reset."""
        return port in ("PRESET", "CLEAR") or (
            port == "LSR" and self.cells[cell]["parameters"].get("SRMODE") == "ASYNC")


def crossings(path: Path) -> list[dict[str, str]]:
    """All places at which something goes from one clock to another, in a netlist of an ECP5 or of
    a Gowin chip.

    Each has `source` and `target` (names of registers or memories), their clocks `source_clock`
    and `target_clock`, and `how`: "synchronizer", "reset" (an asynchronous one, into a chain that
    ends it in step with the clock), "memory" (its pointers are synchronized), or "" for none of
    these.
    """
    netlist = _Netlist(path)
    known: dict[int, frozenset[str]] = {}
    found = {}
    for cell, item in netlist.cells.items():
        own = netlist.clocks(cell)
        for port in item["connections"] if own else ():
            if port == _MEMORIES.get(item["type"]):
                continue  # the register that takes what is read is looked at instead
            for bit in netlist.inputs(cell, {port}):
                for source in netlist.sources(bit, known):
                    other = netlist.clocks(source)
                    if other <= own:
                        continue
                    if netlist.cells[source]["type"] in _MEMORIES:
                        how = "memory"
                    elif netlist.ends_reset(cell, port):
                        how = "reset"
                    else:
                        how = "synchronizer" if netlist.is_synchronizer(cell) else ""
                    entry = {"source": netlist.output_name(source),
                             "target": netlist.output_name(cell),
                             "source_clock": ", ".join(netlist.names[net] for net in other),
                             "target_clock": ", ".join(netlist.names[net] for net in own),
                             "how": how}
                    found[tuple(entry.values())] = entry
    return [found[key] for key in sorted(found)]


def check_crossings(path: Path) -> list[dict[str, str]]:
    """`crossings`; raises `BuildError` when one of them is not synchronized."""
    found = crossings(path)
    bad = [f"{entry['source']} to {entry['target']}" for entry in found if not entry["how"]]
    if bad:
        raise BuildError(f"signals cross clocks without a synchronizer: {'; '.join(bad[:5])}"
                         + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""))
    return found
