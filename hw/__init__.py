"""Gateware, configuration and instruction set of the systolith accelerator."""
