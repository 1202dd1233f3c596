"""Gowin's cells in simulation: yosys' models, and ours in `sim/netlist/gowin.v`."""

from pathlib import Path

from systolith import sim

__all__ = ["MODELS", "OWN", "join_contents"]

MODELS = (Path(sim.__file__).parent / "netlist" / "gowin.v").read_text()
OWN = {"SPX9", "SDPX9B", "DPX9B", "DPB", "MULT9X9", "MULT18X18"}

_FIXED = {"READ_MODE": 0, "BLK_SEL": 0, "BLKSEL": 0, "RESET": 0, "OCE": 1}
"""Parameters and pins of block RAM, by what their names begin with, that the models lack."""


def join_contents(netlist):
    """Give each block RAM of a netlist (yosys' JSON) its contents as the one parameter of the
    models; no setting or pin is in use that they lack."""
    cells = netlist["modules"]["top"]["cells"].values()
    level = {bit: value for cell in cells for kind, pin, value in (("GND", "G", 0), ("VCC", "V", 1))
             if cell["type"] == kind for bit in cell["connections"][pin]}
    for cell in cells:
        if cell["type"] not in OWN or cell["type"].startswith("MULT"):
            continue
        given = cell["parameters"]
        byte = 9 if "X9" in cell["type"] else 8
        rows = [given.pop(f"INIT_RAM_{row:02X}", "0").replace("x", "0").rjust(32 * byte, "0")
                for row in reversed(range(64))]
        contents = "".join(rows)
        given["INIT"] = "".join(contents[place:place + byte].rjust(9, "0")
                                for place in range(0, len(contents), byte))
        if byte == 8:
            assert all(int(given[name], 2) <= 4 for name in given if "WIDTH" in name)
        pins = {name: [level.get(bit, bit) for bit in bits]
                for name, bits in cell["connections"].items()}
        settings = {name: [int(bit) for bit in given[name]] for name in given
                    if name.startswith(("READ_MODE", "BLK_SEL"))}
        for name, bits in (*settings.items(), *pins.items()):
            for start, value in _FIXED.items():
                if name.startswith(start):
                    assert set(bits) == {value}, f"{cell['type']} has {name}={bits}"
        clocks = {bits[0] for name, bits in pins.items() if name.startswith("CLK")}
        assert len(clocks) == 1, f"a {cell['type']} has two clocks"
