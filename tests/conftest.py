"""Settings that all tests share."""

import pytest
from hypothesis import settings

# The machine may be slow and busy; and a run of the tests is the same as the last one.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that run cocotb benches, so that `make cocotb` finds them."""
    for item in items:
        if hasattr(item, "module") and hasattr(item.module, "run_bench"):
            item.add_marker(pytest.mark.cocotb)
