"""The compiler: an integer graph becomes a program image, by small passes over one IR.

`lower` fuses and maps layers to engines, `plan` decides what stays on the chip and the order of
tiles, `tiles`, `finish`, `blocked` and `stripes` emit instructions through `emitter`, which derives
all dependencies, and `build` assembles the image.
"""

from .build import compile_graph

__all__ = ["compile_graph"]
