"""`systolith ops`: the table of supported operators, made from the importer's handlers and from the
rules by which importer and compiler refuse."""

from typing import Any

from rich.console import Console
from rich.table import Table

from .errors import MissingExtraError

__all__ = ["markdown", "operator_table", "print_operators"]


def operator_table() -> dict[str, Any]:
    """Operators with how they run, and rules with the message that breaking them gives.

    Raises `MissingExtraError` without torch, whose operators these are.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("the table of operators needs torch: pip install "
                                "'systolith[torch]'") from None
    from .compiler import rules as compiler_rules
    from .importer import pt2e  # noqa: F401  registers all handlers
    from .importer.lowering import CLAMPS, HANDLERS
    from .importer.rules import RULES
    from .tail import TAIL_OPERATIONS

    grouped: dict[str, list[str]] = {}
    for name, handler in HANDLERS.items():
        grouped.setdefault(_sentence(handler.__doc__), []).append(name)
    operators = [{"operators": sorted(names), "runs": how} for how, names in grouped.items()]
    operators.append({"operators": sorted(CLAMPS),
                      "runs": "as the output bounds of what comes before; they cost nothing"})
    operators.append({"operators": sorted(TAIL_OPERATIONS),
                      "runs": "in the driver, in float, behind the last quantized tensor"})
    refusals = [{"rule": rule.__name__, "by": "importer", "message": rule.template()}
                for rule in RULES]
    refusals += [{"rule": rule.__name__, "by": "compiler", "message": _sentence(rule.__doc__)}
                 for rule in compiler_rules.RULES]
    return {"operators": operators, "refusals": refusals}


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def print_operators(console: Console, table: dict[str, Any]) -> None:
    """Print both tables."""
    supported = Table("operators", "run", title="supported", title_justify="left", show_lines=True)
    for row in table["operators"]:
        supported.add_row(", ".join(row["operators"]), row["runs"])
    console.print(supported)
    refused = Table("rule", "message", title="refused", title_justify="left", show_lines=True)
    for row in table["refusals"]:
        refused.add_row(row["rule"], row["message"])
    console.print(refused)


def markdown(table: dict[str, Any]) -> str:
    """The same as the documentation holds it (`docs/operators.md`)."""
    lines = ["# Operators", "", "Made by `systolith ops` from the rules of importer and compiler.",
             "", "| operators | run |", "|---|---|"]
    lines += [f"| {', '.join(f'`{name}`' for name in row['operators'])} | {row['runs']} |"
              for row in table["operators"]]
    lines += ["", "## What is refused", "", "| rule | message |", "|---|---|"]
    lines += [f"| `{row['rule']}` | {row['message']} |" for row in table["refusals"]]
    return "\n".join(lines) + "\n"
