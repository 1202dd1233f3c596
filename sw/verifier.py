"""The verifier: everything about a program that can be checked by reading it.

A program that passes decodes, stays inside every memory, ends, gives the same result in whatever
order its queues run, and reads nothing that it has not written itself or been given. Compiler,
driver and tests call the same function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from systolith.hw.config import Config
from systolith.hw.isa import (
    DESCRIPTOR_BYTES,
    INSTRUCTION_BYTES,
    WAIT_BITS,
    DecodeError,
    End,
    Instruction,
    Queue,
    decode,
    decode_descriptor,
)

from .accesses import Access, InvalidInstructionError, accesses, memory_sizes
from .errors import ProgramError
from .hazards import Clocks, History, UnwrittenError
from .program import Program

__all__ = ["Report", "read_instructions", "verify", "verify_image"]

_MOST_INSTRUCTIONS = (1 << WAIT_BITS) - 1


@dataclass(frozen=True)
class Report:
    """What the verifier learnt.

    `instructions` a queue, Ends included; `words_used` of each memory, in bytes for main memory
    beyond the image; `bytes_loaded` and `bytes_stored` count every byte as often as it moves.
    """

    instructions: dict[Queue, int]
    words_used: dict[str, int]
    bytes_loaded: int
    bytes_stored: int


def verify(program: Program) -> Report:
    """Check a program. Raises `ProgramError` that names the instruction and the reason."""
    report, history = _verify(
        program.config, program.image, 0, program.memory_bytes,
        [(tensor.address, tensor.nbytes) for tensor in program.inputs])
    for tensor in program.outputs:
        written = history.defined(tensor.address, tensor.nbytes).astype(np.int8)
        if not tensor.unpack(written.tobytes()).all():
            raise ProgramError(f"the program does not write all of its output '{tensor.name}': "
                               "compile the model again")
    return report


def verify_image(config: Config, image: bytes, *, base: int = 0, memory_bytes: int | None = None,
                 inputs: Sequence[tuple[int, int]] = ()) -> Report:
    """Check a bare memory image whose descriptor lies at `base`.

    `image` is main memory from address 0, constant during the run; the program may use
    `memory_bytes` (all by default); `inputs` are (address, bytes) that the host writes before.
    Raises `ProgramError` that names the instruction and the reason.
    """
    memory_bytes = config.memory_size if memory_bytes is None else memory_bytes
    return _verify(config, image, base, memory_bytes, inputs)[0]


def read_instructions(config: Config, image: bytes,
                      base: int = 0) -> dict[Queue, list[Instruction]]:
    """Every queue's instructions, Ends included. Raises `ProgramError` where that fails."""
    if base % DESCRIPTOR_BYTES:
        raise ProgramError(f"the program's descriptor lies at byte {base}, which is not a multiple "
                           f"of {DESCRIPTOR_BYTES}: compile the model again")
    try:
        config_hash, starts = decode_descriptor(image[base:base + DESCRIPTOR_BYTES])
    except DecodeError as error:
        raise ProgramError(f"the program has no descriptor at byte {base} ({error}): compile the "
                           "model again") from None
    if config_hash != config.hash32:
        raise ProgramError(f"the program is for configuration {config_hash:08x}, not "
                           f"{config.hash32:08x}: compile the model for this configuration")
    return {queue: _read_queue(image, queue, start)
            for queue, start in zip(Queue, starts, strict=True)}


def _read_queue(image: bytes, queue: Queue, start: int) -> list[Instruction]:
    if start % INSTRUCTION_BYTES:
        raise ProgramError(f"the instructions of queue {queue.name} begin at byte {start}, which "
                           f"is not a multiple of {INSTRUCTION_BYTES}: compile the model again")
    result: list[Instruction] = []
    for address in range(start, len(image) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
        try:
            result.append(decode(image[address:address + INSTRUCTION_BYTES]))
        except DecodeError as error:
            raise ProgramError(f"{_name(queue, len(result), None)} at byte {address} does not "
                               f"decode ({error}): compile the model again") from None
        if isinstance(result[-1], End):
            return result
        if len(result) == _MOST_INSTRUCTIONS:
            raise ProgramError(f"queue {queue.name} has more than {_MOST_INSTRUCTIONS} "
                               "instructions, which thresholds cannot count: split the program")
    raise ProgramError(f"the instructions of queue {queue.name} from byte {start} do not end "
                       "inside the image: compile the model again")


def _name(queue: Queue, index: int, instruction: Instruction | None) -> str:
    kind = "" if instruction is None else f" ({type(instruction).__name__})"
    return f"{queue.name} instruction {index}{kind}"


class _Verifier:
    """One pass over a program in an order that its thresholds allow."""

    def __init__(self, config: Config, lists: dict[Queue, list[Instruction]], history: History,
                 image_bytes: int, memory_bytes: int):
        self.config = config
        self.lists = lists
        self.history = history
        self.constant = image_bytes
        self.limit = memory_bytes
        self.clocks = Clocks()
        self.bytes = {False: 0, True: 0}

    def run(self) -> None:
        """Retire instructions as far as thresholds allow: they only ever open, so any order does.
        """
        progress = True
        while progress:
            progress = False
            for queue in Queue:
                while self.clocks.count(queue) < len(self.lists[queue]) and self._ready(queue):
                    self._step(queue)
                    progress = True
        stuck = [queue for queue in Queue if self.clocks.count(queue) < len(self.lists[queue])]
        if stuck:
            index = self.clocks.count(stuck[0])
            name = _name(stuck[0], index, self.lists[stuck[0]][index])
            raise ProgramError(f"{name} waits for instructions that never retire: every "
                               "unfinished queue waits for another, so correct the thresholds")

    def _ready(self, queue: Queue) -> bool:
        waits = self.lists[queue][self.clocks.count(queue)].waits
        return all(self.clocks.count(other) >= wait
                   for other, wait in zip(Queue, waits, strict=True))

    def _step(self, queue: Queue) -> None:
        index = self.clocks.count(queue)
        instruction = self.lists[queue][index]
        name = _name(queue, index, instruction)
        clock = self.clocks.add(queue, instruction.waits)
        try:
            touched = accesses(self.config, queue, instruction)
        except InvalidInstructionError as error:
            raise ProgramError(f"{name} {error}: compile the model again") from None
        for access in touched:
            if access.memory == "main":
                self._check_main(name, access)
            if not access.write:
                try:
                    self.history.check_written(access)
                except UnwrittenError as error:
                    raise ProgramError(f"{name} {error}: load or compute it first") from None
        conflict = self.history.conflict(queue, touched, clock)
        if conflict is not None:
            other = _name(conflict.queue, conflict.index,
                          self.lists[conflict.queue][conflict.index])
            verb = "writes" if conflict.access.write else "reads"
            raise ProgramError(f"{name} {verb} {conflict.access.memory} word {conflict.word} in no "
                               f"fixed order with {other}, which uses it too: make one of them "
                               "wait until the other has retired")
        self.history.record(queue, index + 1, touched)

    def _check_main(self, name: str, access: Access) -> None:
        words = access.words
        if isinstance(words, slice):
            low, high = words.start, words.stop - 1
        else:
            low, high = int(words[0]), int(words[-1])
        self.bytes[access.write] += high - low + 1 if isinstance(words, slice) else len(words)
        if high >= self.limit:
            raise ProgramError(f"{name} reaches byte {high} of main memory and the program uses "
                               f"{self.limit}: compile the model again")
        if access.write and low < self.constant:
            raise ProgramError(f"{name} writes byte {low} of main memory, which belongs to the "
                               "program's image: compile the model again")


def _verify(config: Config, image: bytes, base: int, memory_bytes: int,
            inputs: Sequence[tuple[int, int]]) -> tuple[Report, History]:
    lists = read_instructions(config, image, base)
    history = History(config, memory_bytes, len(image))
    for start, count in inputs:
        history.define(start, count)
    verifier = _Verifier(config, lists, history, len(image), memory_bytes)
    verifier.run()
    report = Report(
        instructions={queue: len(instructions) for queue, instructions in lists.items()},
        words_used={memory: history.used(memory) for memory in memory_sizes(config)},
        bytes_loaded=verifier.bytes[False], bytes_stored=verifier.bytes[True])
    return report, history
