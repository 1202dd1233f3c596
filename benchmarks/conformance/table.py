"""All cells, and the tables that `make conformance` prints."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.console import Console

from systolith.summary import layer_table

from .measure import ORACLES, VARIANTS, WEIGHTED, Cell, measure
from .own_ways import OwnWay, own_ways
from .samples import OPERATORS

__all__ = ["Conformance", "conformance"]

VARIANT_OPERATORS = ("conv, per channel", "depthwise, per channel", "linear, per channel")


@dataclass(kw_only=True)
class Conformance:
    """Everything measured. `missing` says which oracle is not installed, and how to get it."""

    cells: list[Cell] = field(default_factory=list)
    variants: list[Cell] = field(default_factory=list)
    own_ways: list[OwnWay] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> list[Cell]:
        """Cells outside the contract."""
        judged = [*self.cells, *self.variants, *(way.ours for way in self.own_ways)]
        return [cell for cell in judged if not cell.holds]

    def show(self, console: Console) -> None:
        """Print the tables."""
        columns = ("operator", "oracle", "ours", "outputs", "differ", "fraction", "largest",
                   "contract", "")
        console.print(layer_table("outputs that differ from other implementations", columns,
                                  [_row(cell) for cell in self.cells]))
        console.print(layer_table("the same with another arithmetic than the oracle's", columns,
                                  [_row(cell) for cell in self.variants]))
        console.print(layer_table(
            "by oracle: outputs, and the largest fractions that differ",
            ("oracle", "ours", "outputs", "layers with weights", "add", "the rest",
             "the rest's ties"), _summary(self.cells)))
        console.print(layer_table(
            "where an oracle goes its own way",
            ("oracle", "what it does", "operator", "outputs", "differ from ours", "largest",
             "ours differ from", ""),
            [(way.cell.oracle, way.what, way.cell.operator, way.cell.outputs,
              f"{way.cell.fraction:.1e}", way.cell.largest, way.witness,
              f"{way.ours.different:,}") for way in self.own_ways]))
        for name, reason in self.missing.items():
            console.print(f"{name} was not measured: {reason}")


def _row(cell: Cell) -> tuple[object, ...]:
    limit = "±1" if cell.limit == 1 else f"{cell.limit:.1e}" if cell.limit else "0"
    return (cell.operator, cell.oracle, cell.arithmetic, cell.outputs, cell.different,
            _fraction(cell), cell.largest, limit,
            "" if cell.holds else "OUTSIDE")


def _summary(cells: list[Cell]) -> list[tuple[object, ...]]:
    rows = []
    for oracle in dict.fromkeys(cell.oracle for cell in cells):
        mine = [cell for cell in cells if cell.oracle == oracle]

        def worst(chosen: Iterable[Cell]) -> str:
            return max((_fraction(cell) for cell in chosen), key=float, default="")

        exact = [cell for cell in mine if cell.limit < 1]
        rows.append((oracle, mine[0].arithmetic, sum(cell.outputs for cell in mine),
                     worst(cell for cell in exact if cell.function in WEIGHTED),
                     worst(cell for cell in exact if cell.function == "add"),
                     worst(cell for cell in exact if cell.function not in (*WEIGHTED, "add")),
                     worst(cell for cell in mine if cell.limit == 1)))
    return rows


def _fraction(cell: Cell) -> str:
    return f"{cell.fraction:.1e}" if cell.different else "0"


def conformance(outputs: int, *, images: int = 8, slow_outputs: int | None = None,
                progress: Callable[[str], None] = lambda text: None) -> Conformance:
    """Measure every operator against every oracle that is installed.

    Parameters
    ----------
    outputs
        At least so many a cell.
    images
        In a sample.
    slow_outputs
        For ExecuTorch, which compiles a second a sample; by default as many. 0 leaves it out.
    progress
        Told what is being measured.
    """
    result = Conformance()
    for oracle in ORACLES:
        wanted = outputs
        if oracle.name == "ExecuTorch" and slow_outputs is not None:
            wanted = slow_outputs
        for operator in OPERATORS if wanted else ():
            progress(f"{oracle.name}: {operator}")
            try:
                result.cells += measure(oracle, operator, wanted, images=images)
            except ImportError as error:
                result.missing[oracle.name] = (f"{error.name} is not installed; `make "
                                               "conformance` tries to install it")
                break
    for oracle in VARIANTS:
        for operator in VARIANT_OPERATORS:
            progress(f"{oracle.name}, {oracle.arithmetic}: {operator}")
            result.variants += measure(oracle, operator, outputs, images=images)
    progress("where oracles go their own way")
    result.own_ways = own_ways(outputs, images=images)
    return result
