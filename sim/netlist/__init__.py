"""Simulation of a board's netlist, between its pins, before placement."""
