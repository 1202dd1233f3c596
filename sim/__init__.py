"""Golden model, verilated device and simulation helpers."""
