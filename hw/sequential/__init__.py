"""A second implementation of the instruction set, small because it does one thing at a time."""
