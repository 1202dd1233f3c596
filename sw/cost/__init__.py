"""The cost model: predicted cycles of a program.

`model` walks the instructions in the order of time; what they wait for beside each other is in the
other files: the memory port (`port`) with the requests of LOAD (`loading`) and of the instruction
fetch (`fetching`), banks of the scratchpad (`conflicts`), and accumulators (`accumulating`). `work`
says how much an instruction has to do by itself, `slowing` how long that takes beside others. Cores
that do one instruction at a time are in `sequential`.
"""

from .model import LATENCY, estimate
from .prediction import Estimate
from .work import transfer_cycles, work_cycles

__all__ = ["LATENCY", "Estimate", "estimate", "transfer_cycles", "work_cycles"]
