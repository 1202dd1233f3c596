"""Which layer a cycle belongs to, the same way for predictions and for measurements.

Layers run into each other: while the array works on one, the vector unit works on the next and the
last one is written back. So every layer is counted on the engine that computes it.

- A layer on the array has all cycles between the retirement of what the array did before it and
  the retirement of its own last instruction, waiting included; what follows the array's last
  instruction belongs to the layer of that instruction. These layers add up to the whole run.
- A layer on the vector unit or the post-processor has the cycles that its instructions take there
  (each a fixed number, together the engine's active cycles), and those in which they were refused
  an access; waiting for other engines is not counted. They lie beside the array's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import Instruction, Load, Queue, Store
from systolith.hw.protocol import Counter

from .cost import Estimate, transfer_cycles, work_cycles
from .errors import DeviceError

__all__ = ["Measured", "Schedule", "attribute", "layer_bytes", "predicted_cycles"]

Values = NDArray[np.int64]

_ENGINES = (Queue.ARRAY, Queue.VECTOR, Queue.POST)
"""The queues that compute layers."""


@dataclass(frozen=True)
class Schedule:
    """A program's instructions and whose they are.

    `lists` holds the instructions of each queue, END included; `owners` the index of each
    instruction's layer in the program; `engines` the engine of each layer.
    """

    lists: Mapping[Queue, Sequence[Instruction]]
    owners: Mapping[Queue, Sequence[int]]
    engines: Sequence[Queue]

    @property
    def main(self) -> Queue:
        """The engine whose layers add up to the whole run."""
        return next((queue for queue in (Queue.ARRAY, Queue.VECTOR) if queue in self.engines),
                    Queue.POST)


def attribute(schedule: Schedule, queue: Queue, values: Any) -> Values:
    """Sum over the instructions of a queue, a layer: `values` holds one amount an instruction.

    Parameters
    ----------
    values
        [instructions of the queue, END excluded or included, ...].

    Returns
    -------
    int64 [layers, ...]
    """
    values = np.asarray(values, np.int64)
    result = np.zeros((len(schedule.engines), *values.shape[1:]), np.int64)
    np.add.at(result, np.asarray(schedule.owners[queue][:len(values)], np.int64), values)
    return result


def predicted_cycles(schedule: Schedule, estimate: Estimate) -> list[int]:
    """Cycles a layer that the cost model expects."""
    result = np.zeros(len(schedule.engines), np.int64)
    for queue in _ENGINES:
        mine = np.array([engine == queue for engine in schedule.engines], bool)
        if queue == schedule.main:
            amounts = np.diff(np.array(estimate.retired[queue][:-1], np.int64), prepend=0)
            if len(amounts):
                amounts[-1] += estimate.cycles - estimate.retired[queue][-2]
        else:
            amounts = np.array(estimate.work[queue][:-1], np.int64)
        result[mine] = attribute(schedule, queue, amounts)[mine]
    return result.tolist()


def layer_bytes(schedule: Schedule, config: Config) -> list[int]:
    """Bytes a layer that its LOADs and STOREs move, in whole beats."""
    result = np.zeros(len(schedule.engines), np.int64)
    for queue in (Queue.LOAD, Queue.STORE):
        result += attribute(schedule, queue, [
            transfer_cycles(config, instruction)[0] * config.memory_bytes_per_beat
            if isinstance(instruction, Load | Store) else 0
            for instruction in schedule.lists[queue]])
    return result.tolist()


class Measured:
    """A run's retirements, seen by layers.

    Parameters
    ----------
    config, schedule
        What ran, on what.
    counters
        int64 [records, `Counter`]: all counters in each cycle in which an instruction retired.
    cycles
        Cycles of the whole run.
    """

    def __init__(self, config: Config, schedule: Schedule, counters: Values, cycles: int):
        self._config = config
        self._schedule = schedule
        self._total = cycles
        self._at: dict[Queue, Values] = {}
        for queue in Queue:
            retired = counters[:, Counter[f"{queue.name}_RETIRED"]]
            count = len(schedule.lists[queue]) - 1
            if not len(retired) or retired[-1] < count:
                raise DeviceError(f"queue {queue.name} did not retire all of its {count} "
                                  "instructions: report this as a bug")
            # The first record that counts an instruction is that of its retirement.
            self._at[queue] = counters[np.searchsorted(retired, np.arange(1, count + 1))]

    def _spent(self, queue: Queue) -> Values:
        """What each counter grew by between the retirements of a queue."""
        return np.diff(self._at[queue], axis=0, prepend=0)

    def cycles(self) -> list[int]:
        """Cycles a layer."""
        schedule = self._schedule
        result = np.zeros(len(schedule.engines), np.int64)
        for queue in _ENGINES:
            spent = self._spent(queue)
            if queue == schedule.main:
                amounts = spent[:, Counter.CYCLES]
                if len(amounts):
                    amounts[-1] += self._total - amounts.sum()
            else:
                work = [work_cycles(self._config, instruction)
                        for instruction in schedule.lists[queue][:len(spent)]]
                amounts = spent[:, Counter[f"{queue.name}_STALL"]] + np.array(work, np.int64)
            mine = np.array([engine == queue for engine in schedule.engines], bool)
            result[mine] = attribute(schedule, queue, amounts)[mine]
        return result.tolist()

    def stalls(self) -> list[dict[str, int]]:
        """Cycles a layer that its engine lost, by cause.

        "load", "array", "vector", "post" and "store" are waits for that queue's work, by the
        retirement that ended the wait; "weights" that the array's next tile was not there;
        "access" that the scratchpad was busy.
        """
        schedule = self._schedule
        rows: list[dict[str, int]] = [
            dict.fromkeys((*(queue.name.lower() for queue in Queue), "weights", "access"), 0)
            for _ in schedule.engines]
        for queue in _ENGINES:
            spent = self._spent(queue)
            weights = spent[:, Counter.ARRAY_WEIGHT] * (queue == Queue.ARRAY)
            access = spent[:, Counter[f"{queue.name}_STALL"]] - weights
            waits = spent[:, Counter[f"{queue.name}_WAIT"]]
            for index, owner in enumerate(schedule.owners[queue][:len(spent)]):
                if schedule.engines[owner] != queue:
                    continue
                row = rows[owner]
                row["weights"] += int(weights[index])
                row["access"] += int(access[index])
                if waits[index]:
                    row[self._released_by(queue, index).name.lower()] += int(waits[index])
        return rows

    def _released_by(self, queue: Queue, index: int) -> Queue:
        """The queue whose retirement an instruction waited for last."""
        waits = self._schedule.lists[queue][index].waits
        times = [(int(self._at[other][count - 1][Counter.CYCLES]), other)
                 for other, count in zip(Queue, waits, strict=True) if count]
        return max(times)[1] if times else queue
