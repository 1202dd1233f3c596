"""The documentation's table of operators is the one that the rules give."""

from pathlib import Path

from systolith.operators import markdown, operator_table


def test_documented_operators_are_current():
    """`systolith ops --markdown docs/operators.md` writes it anew."""
    written = (Path(__file__).parents[1] / "docs/operators.md").read_text()
    assert written == markdown(operator_table())
