"""Outputs counted against other implementations of the same arithmetic: `make conformance`."""
