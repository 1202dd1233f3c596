"""The golden model: an interpreter of program images, exact to the byte.

It executes the same image over the same main memory as the hardware, instruction by instruction.
After any program that the verifier accepts, main memory is what the hardware leaves there; where
one queue errs, the error is the hardware's. The instructions themselves are in `golden_units`.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from systolith.hw.config import Config
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    INSTRUCTION_BYTES,
    DecodeError,
    End,
    ErrorCode,
    Instruction,
    Queue,
    decode,
    decode_descriptor,
)

from .golden_memories import Memories, StopError
from .golden_units import PREPARE, check_units

__all__ = ["Golden", "Outcome", "run"]

_CACHED_INSTRUCTIONS = 1 << 17
_MAX_FLIGHT = 4


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    `error`, and with it the queue and the byte address of the instruction that caused it;
    `retired` instructions a queue, in the order of `Queue`; `marks`, the marked instructions as
    (queue, index in the queue) in the order in which they retired.
    """

    error: ErrorCode
    queue: Queue
    address: int
    retired: tuple[int, ...]
    marks: tuple[tuple[Queue, int], ...]


class _QueueError(Exception):
    def __init__(self, code: ErrorCode, queue: Queue, address: int):
        super().__init__(code.name)
        self.code, self.queue, self.address = code, queue, address


class _QueueState:
    """One instruction list: where it begins, what has begun, what has retired."""

    def __init__(self, queue: Queue, start: int):
        self.queue = queue
        self.start = start
        self.begun = 0
        self.retired = 0
        self.ended = False
        self.finished = False
        self.head: Instruction | None = None
        self.flight: deque[tuple[Instruction, Callable[[], None]]] = deque()

    @property
    def address(self) -> int:
        """Byte address of the next instruction to begin."""
        return self.start + self.begun * INSTRUCTION_BYTES

    def advance(self) -> None:
        """Go to the next instruction after the head has begun."""
        self.ended = isinstance(self.head, End)
        self.head = None
        self.begun += 1


class Golden:
    """One accelerator: its configuration and the contents of its on-chip memories.

    Parameters
    ----------
    config
        Geometry and options.
    noise
        Seed of random contents of the on-chip memories at first, zeros without it. No program
        that the verifier accepts depends on them.
    """

    def __init__(self, config: Config, *, noise: int | None = None):
        self.config = config
        self.memories = Memories(config, noise)
        self._decoded: dict[bytes, Instruction | DecodeError] = {}

    def run(self, memory: bytearray | NDArray[np.uint8], base: int = 0, *,
            order: int | None = None) -> Outcome:
        """Run the program whose descriptor lies at byte address `base`.

        `memory` is main memory, `config.memory_size` bytes, changed in place. `order` seeds a
        random legal order of the queues, in which instructions of different queues overlap and
        read and write early or late; without it queues run as far as they can, lowest first.
        Raises ValueError for memory of another size.
        """
        if len(memory) != self.config.memory_size:
            raise ValueError(f"main memory must have {self.config.memory_size} bytes, not "
                             f"{len(memory)}")
        if isinstance(memory, np.ndarray):
            self.memories.main = memory
        else:
            self.memories.main = np.frombuffer(memory, np.uint8)
        self._queues: list[_QueueState] = []
        self._marks: list[tuple[Queue, int]] = []
        error, queue, address = ErrorCode.NONE, Queue.LOAD, 0
        try:
            self._queues = [_QueueState(Queue(number), start)
                            for number, start in enumerate(self._descriptor(base))]
            if order is None:
                self._run_in_order()
            else:
                self._run_at_random(random.Random(order))
        except _QueueError as stop:
            error, queue, address = stop.code, stop.queue, stop.address
        finally:
            self.memories.main = np.zeros(0, np.uint8)
        retired = [state.retired for state in self._queues] or [0] * len(Queue)
        return Outcome(error, queue, address, tuple(retired), tuple(self._marks))

    def _descriptor(self, base: int) -> tuple[int, ...]:
        if base % DESCRIPTOR_BYTES or base + DESCRIPTOR_BYTES > self.config.memory_size:
            raise _QueueError(ErrorCode.ADDRESS, Queue.LOAD, base)
        data = self.memories.main[base:base + DESCRIPTOR_BYTES].tobytes()
        try:
            config_hash, starts = decode_descriptor(data)
        except DecodeError as error:
            raise _QueueError(error.code, Queue.LOAD, base) from None
        if config_hash != self.config.hash32:
            raise _QueueError(ErrorCode.DESCRIPTOR, Queue.LOAD, base)
        return starts

    # Fetch and decode ---------------------------------------------------------------------------

    def _head(self, state: _QueueState) -> Instruction:
        """The next instruction of a queue, decoded and checked before its thresholds are."""
        if state.head is None:
            end = state.address + INSTRUCTION_BYTES
            if end > self.config.memory_size or state.start % INSTRUCTION_BYTES:
                raise _QueueError(ErrorCode.ADDRESS, state.queue, state.address)
            instruction = self._decode(self.memories.main[state.address:end].tobytes())
            if isinstance(instruction, DecodeError):
                raise _QueueError(instruction.code, state.queue, state.address)
            if state.queue not in instruction.queues:
                raise _QueueError(ErrorCode.DECODE, state.queue, state.address)
            try:
                check_units(self.config, instruction)
            except StopError as stop:
                raise _QueueError(stop.code, state.queue, state.address) from None
            state.head = instruction
        return state.head

    def _decode(self, data: bytes) -> Instruction | DecodeError:
        result = self._decoded.get(data)
        if result is None:
            if len(self._decoded) >= _CACHED_INSTRUCTIONS:
                self._decoded.clear()
            try:
                result = decode(data)
            except DecodeError as error:
                result = error
            self._decoded[data] = result
        return result

    # Order --------------------------------------------------------------------------------------

    def _ready(self, state: _QueueState) -> bool:
        if state.ended:
            return False
        return all(other.retired >= wait for other, wait in zip(
            self._queues, self._head(state).waits, strict=True))

    def _prepare(self, state: _QueueState, instruction: Instruction,
                 address: int) -> Callable[[], None]:
        """Checks and reads of an instruction. Returns its writes."""
        if isinstance(instruction, End):
            return _nothing
        try:
            return PREPARE[type(instruction)](self.memories, instruction)
        except StopError as stop:
            raise _QueueError(stop.code, state.queue, address) from None

    def _execute(self, state: _QueueState, instruction: Instruction, address: int) -> None:
        self._prepare(state, instruction, address)()

    def _retire(self, state: _QueueState, instruction: Instruction) -> None:
        if instruction.mark:
            self._marks.append((state.queue, state.retired))
        state.retired += 1
        state.finished = isinstance(instruction, End)

    def _check_deadlock(self) -> None:
        for state in self._queues:
            if not state.finished:
                raise _QueueError(ErrorCode.DEADLOCK, state.queue, state.address)

    def _run_in_order(self) -> None:
        progress = True
        while progress:
            progress = False
            for state in self._queues:
                while self._ready(state):
                    instruction = self._head(state)
                    self._execute(state, instruction, state.address)
                    state.advance()
                    self._retire(state, instruction)
                    progress = True
        self._check_deadlock()

    def _run_at_random(self, rng: random.Random) -> None:
        """Any order that the thresholds allow, with instructions in flight.

        An instruction reads when it begins, or with its writes; it writes when it begins, or when
        it retires. The writes of one queue stay in order, which is what the hardware promises.
        """
        while True:
            begin = [state for state in self._queues if len(state.flight) < _MAX_FLIGHT
                     and self._ready(state)]
            retire = [state for state in self._queues if state.flight]
            if not begin and not retire:
                return self._check_deadlock()
            if begin and (not retire or rng.random() < 0.5):
                self._begin_at_random(rng.choice(begin), rng)
            else:
                state = rng.choice(retire)
                instruction, finish = state.flight.popleft()
                finish()
                self._retire(state, instruction)

    def _begin_at_random(self, state: _QueueState, rng: random.Random) -> None:
        instruction, address = self._head(state), state.address
        kind = rng.choice(("early", "split", "late"))
        finish = _nothing
        if kind == "late":
            finish = partial(self._execute, state, instruction, address)
        elif kind == "split" or any(pending is not _nothing for _, pending in state.flight):
            finish = self._prepare(state, instruction, address)
        else:
            self._execute(state, instruction, address)
        state.flight.append((instruction, finish))
        state.advance()


def _nothing() -> None:
    """What is left to do of an instruction that has written its results."""


def run(config: Config, memory: bytearray | NDArray[np.uint8], base: int = 0) -> Outcome:
    """Run one program on a fresh machine: see `Golden.run`."""
    return Golden(config).run(memory, base)
