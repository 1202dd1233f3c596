"""A device as its user sees it: give it a program and images, get numbers."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from systolith.errors import DeviceError, Error
from systolith.hw.protocol import Identity
from systolith.layout import TensorDescriptor
from systolith.program import Program
from systolith.verifier import verify

from .batch import finish_outputs, group_images, input_levels, ungroup_images
from .clearing import clearing_image
from .machine import Machine, Progress, Transfer
from .records import RunRecord, record

__all__ = ["Device"]

_STAGING_ALIGNMENT = 64


class Device:
    """One accelerator, ready to run programs.

    Parameters
    ----------
    machine
        Memory and core; closed with the device.
    streaming
        Whether to send the next image and fetch the last one's outputs while the core computes.
    careful
        Whether a program is verified before it is loaded (no access out of range, no race, no
        deadlock, every output written), and what an earlier one left behind is cleared.

    Members
    -------
    last_run
        Figures of the last `run`, None before.
    """

    def __init__(self, machine: Machine, *, streaming: bool = False, careful: bool = True):
        self._machine = machine
        self._careful = careful
        self._used = 0  # bytes of main memory that programs have used
        self._streaming = streaming
        self._loaded: Program | None = None
        self.last_run: RunRecord | None = None

    @property
    def machine(self) -> Machine:
        """The device's memory and core, for tools."""
        return self._machine

    @property
    def name(self) -> str:
        """What messages call the device."""
        return self._machine.name

    @property
    def identity(self) -> Identity:
        """What the device says about itself."""
        return self._machine.identity

    def load(self, program: Program, *, progress: Progress | None = None) -> None:
        """Bring a program into the device's memory and verify it there.

        What an earlier program left in main memory and on the chip is cleared. Raises
        `DeviceError` when the device was built for another configuration, or does not hold what it
        was sent; `ProgramError` when the program could go wrong on it.
        """
        self._check_config(program)
        machine = self._machine
        self._loaded = None
        if self._careful:
            verify(program)
            machine.write(0, clearing_image(program.config))
            machine.run(0).check(self.name)
        machine.write(0, program.image, progress)
        rest = max(program.memory_bytes, self._used) - len(program.image)
        self._used = program.memory_bytes
        if rest:
            machine.fill(len(program.image), rest)
        self._loaded = program
        self.verify()

    def verify(self) -> None:
        """Compare the loaded program's image with what is in the device's memory, by CRC.

        Raises `DeviceError` when they differ; the next run then loads the program anew.
        """
        if self._loaded is None:
            raise DeviceError(f"{self.name} has no program: run or load one first")
        loaded, self._loaded = self._loaded, None
        self._machine.verify(0, loaded.image)
        self._loaded = loaded

    def run(self, program: Program, images: Any, *, dequantize: bool = True,
            deadline: float | None = None, watchdog: int | None = None,
            progress: Callable[[int, int], None] | None = None) -> Any:
        """Run a batch of images.

        Parameters
        ----------
        program
            Loaded first unless it is there already.
        images
            Real numbers, batch first, in the model's input shape (NCHW); a list of arrays for a
            model of several inputs.
        dequantize
            Return float32 as the model does, or else the int8 values themselves.
        deadline
            Seconds that one image may take; by default a hundred times the prediction and a
            minute.
        watchdog
            Cycles without progress after which the device stops a run.
        progress
            Called with images done and images in all.

        Returns one array, batch first, or a tuple of arrays for several outputs. Raises
        `InputError` for images that do not fit, `DeviceError` when the device stops with an error,
        `LinkError` when it is lost.
        """
        levels = input_levels(program, images)
        outputs = self.run_levels(program, group_images(program, levels), deadline=deadline,
                                  watchdog=watchdog, progress=progress)
        return finish_outputs(program, ungroup_images(program, outputs, len(levels[0])), dequantize)

    def run_levels(self, program: Program, levels: list[NDArray[np.int8]], *,
                   deadline: float | None = None, watchdog: int | None = None,
                   progress: Callable[[int, int], None] | None = None) -> list[NDArray[np.int8]]:
        """Run a batch that is quantized already, one array an input; one array an output.

        Otherwise as `run`.
        """
        machine = self._machine
        if self._loaded is not program:
            self.load(program)
        if deadline is None:
            deadline = 60.0 + 100.0 * program.predicted_cycles / machine.cycles_per_second
        batch = _Batch(machine, program, levels, deadline, watchdog, progress)
        begun = machine.now()
        try:
            outputs = (batch.stream() if self._streaming and batch.can_stream
                       else batch.one_by_one())
        except Error:
            self._loaded = None  # a run that failed may have written anywhere
            raise
        seconds = machine.now() - begun
        self.last_run = record(
            program, machine.measurements(), images=batch.images, total_cycles=batch.cycles,
            seconds=seconds, cycles_per_second=machine.cycles_per_second)
        return outputs

    def selftest(self, program: Program) -> None:
        """Run the program's known-answer vector.

        Raises `DeviceError` naming the first output that differs, or that there is no vector.
        """
        answer = program.known_answer
        if answer is None:
            raise DeviceError("the program has no known-answer vector: compile it again")
        if self._loaded is not program:
            self.load(program)
        batch = _Batch(self._machine, program, [array[None] for array in answer.inputs], None,
                       None, None)
        for tensor, values, wanted in zip(program.outputs, batch.one_by_one(), answer.outputs,
                                          strict=True):
            different = np.argwhere(values[0] != wanted)
            if len(different):
                index = tuple(int(i) for i in different[0])
                raise DeviceError(
                    f"{self.name} computed {values[0][index]} instead of {wanted[index]} for "
                    f"'{tensor.name}' at {index}, and {len(different)} wrong values in all: "
                    "check the board's clock, power and memory")

    def _check_config(self, program: Program) -> None:
        there = f"{self.identity.config_hash:016x}"
        if there != program.config.hash:
            raise DeviceError(
                f"the program was compiled for configuration {program.config.hash} and "
                f"{self.name} has {there} ({self.identity.rows}x{self.identity.columns}): "
                "compile the model for the device's configuration")
        if program.memory_bytes > self.identity.memory_size:
            raise DeviceError(
                f"the program needs {program.memory_bytes} bytes of memory and {self.name} has "
                f"{self.identity.memory_size}: compile the model for the device's configuration")

    def close(self) -> None:
        """Give the device back. May be called twice."""
        self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Batch:
    """One call of `run`: the images, and the two ways to bring them through."""

    def __init__(self, machine: Machine, program: Program, levels: list[NDArray[np.int8]],
                 deadline: float | None, watchdog: int | None,
                 progress: Callable[[int, int], None] | None):
        self._machine = machine
        self._program = program
        self._levels = levels
        self._deadline = deadline
        self._watchdog = watchdog
        self._progress = progress
        self._outputs: list[list[NDArray[np.int8]]] = [[] for _ in program.outputs]
        self.images = len(levels[0])
        self.cycles = 0
        self._stage_in = self._stage(program.inputs, program.memory_bytes)
        self._stage_out = self._stage(program.outputs, self._stage_in[-1])

    @staticmethod
    def _stage(tensors: tuple[TensorDescriptor, ...], start: int) -> list[int]:
        """Addresses of copies of the tensors from `start`, and the one behind them."""
        addresses = [-(-start // _STAGING_ALIGNMENT) * _STAGING_ALIGNMENT]
        for tensor in tensors:
            end = addresses[-1] + tensor.nbytes
            addresses.append(-(-end // _STAGING_ALIGNMENT) * _STAGING_ALIGNMENT)
        return addresses

    @property
    def can_stream(self) -> bool:
        """Whether there is a batch, and memory behind the program for a second set of tensors."""
        return self.images > 1 and self._stage_out[-1] <= self._machine.identity.memory_size

    def one_by_one(self) -> list[NDArray[np.int8]]:
        """Send, compute, fetch; the core's cycles are not disturbed by the link."""
        for index in range(self.images):
            for tensor, data in self._packed(index):
                self._machine.write(tensor.address, data)
            self._machine.begin(0, watchdog=self._watchdog)
            self._finish()
            for tensor, outputs in zip(self._program.outputs, self._outputs, strict=True):
                outputs.append(tensor.unpack(self._machine.read(tensor.address, tensor.nbytes)))
            self._report(index + 1)
        return [np.stack(outputs) for outputs in self._outputs]

    def stream(self) -> list[NDArray[np.int8]]:
        """Compute an image while the next one is sent and the last one's outputs are fetched.

        Both wait in staging areas behind the program's memory; between two runs the device copies
        them from and to the program's own tensors.
        """
        machine = self._machine
        inputs = self._send(0)
        moves: list[Transfer] = []
        for index in range(self.images):
            for transfer in inputs:
                transfer.wait()
            moves += [machine.copy_later(stage, tensor.nbytes, tensor.address)
                      for tensor, stage in zip(self._program.inputs, self._stage_in,
                                               strict=False)]
            machine.begin(0, watchdog=self._watchdog)
            inputs = self._send(index + 1) if index + 1 < self.images else []
            fetched = self._fetch() if index else []
            self._finish()
            for transfer in moves:
                transfer.wait()
            self._collect(fetched)
            moves = [machine.copy_later(tensor.address, tensor.nbytes, stage)
                     for tensor, stage in zip(self._program.outputs, self._stage_out,
                                              strict=False)]
            self._report(index)
        self._collect(self._fetch())
        self._report(self.images)
        return [np.stack(outputs) for outputs in self._outputs]

    def _packed(self, index: int) -> list[tuple[TensorDescriptor, bytes]]:
        return [(tensor, tensor.pack(values[index]))
                for tensor, values in zip(self._program.inputs, self._levels, strict=True)]

    def _send(self, index: int) -> list[Transfer]:
        return [self._machine.write_later(stage, data)
                for stage, (_, data) in zip(self._stage_in, self._packed(index), strict=False)]

    def _fetch(self) -> list[Transfer]:
        return [self._machine.read_later(stage, tensor.nbytes)
                for stage, tensor in zip(self._stage_out, self._program.outputs, strict=False)]

    def _collect(self, transfers: list[Transfer]) -> None:
        for tensor, outputs, transfer in zip(self._program.outputs, self._outputs, transfers,
                                             strict=False):
            outputs.append(tensor.unpack(transfer.wait()))

    def _finish(self) -> None:
        result = self._machine.finish(self._deadline)
        result.check(self._machine.name)
        self.cycles += result.cycles

    def _report(self, done: int) -> None:
        if self._progress is not None and done:
            self._progress(done, self.images)
