"""What a device tells about its last run."""

from dataclasses import dataclass, field

from systolith.hw.config import Config
from systolith.program import Program

from .machine import Measurements

__all__ = ["LayerRun", "RunRecord", "record"]


@dataclass(frozen=True, kw_only=True)
class LayerRun:
    """One stage of the last image (a layer, or several that run into each other): when its mark
    retired and what it cost.

    `begin` and `end` are core cycles since the run began; `active` are the cycles in which the
    array took a pixel; `utilization` is useful MACs over cycles times multipliers.
    """

    name: str
    op: str
    macs: int
    begin: int
    end: int
    active: int
    predicted_cycles: int
    utilization: float

    @property
    def cycles(self) -> int:
        """Cycles from the mark of the stage before to this one's."""
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Figures of a `Device.run`.

    `cycles`, `utilization`, `counters`, `stalls`, `bytes_read`, `bytes_written` and `layers` are of
    the last image; they are None or empty on a device that counts no cycles. `total_cycles` sums
    over all images. `seconds` is the time of the whole call on the device's clock, `core_seconds`
    the part in which the core ran, and `link_seconds` what the link added to that.
    """

    images: int
    cycles: int | None = None
    total_cycles: int | None = None
    utilization: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    bytes_read: int | None = None
    bytes_written: int | None = None
    layers: tuple[LayerRun, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0

    @property
    def link_seconds(self) -> float:
        """Time that the link took beside what was hidden behind computing."""
        return max(0.0, self.seconds - self.core_seconds)


def record(program: Program, measured: Measurements, *, images: int, total_cycles: int,
           seconds: float, cycles_per_second: float) -> RunRecord:
    """The record of a call; `measured` is of its last image."""
    if not measured.counters:
        return RunRecord(images=images, seconds=seconds, core_seconds=seconds)
    counters = measured.counters
    cycles = counters["cycles"]
    return RunRecord(
        images=images, cycles=cycles, total_cycles=total_cycles,
        utilization=_utilization(program.macs, cycles, program.config), counters=counters,
        stalls={name: value for name, value in counters.items()
                if name.endswith(("_wait", "_stall")) or name == "array_weight"},
        bytes_read=counters["bytes_read"], bytes_written=counters["bytes_written"],
        layers=_layers(program, measured), seconds=seconds,
        core_seconds=min(seconds, total_cycles / cycles_per_second))


def _layers(program: Program, measured: Measurements) -> tuple[LayerRun, ...]:
    layers = []
    before = (0, 0)
    # A log shorter than the network gives its first stages.
    for stage, entry in zip(program.stages, measured.timestamps, strict=False):
        members = program.layers[stage.first:stage.last]
        macs = sum(layer.macs for layer in members)
        layers.append(LayerRun(
            name=" > ".join(layer.name for layer in members),
            op=" > ".join(layer.op for layer in members), macs=macs, begin=before[0],
            end=entry[0], active=entry[1] - before[1], predicted_cycles=stage.predicted_cycles,
            utilization=_utilization(macs, entry[0] - before[0], program.config)))
        before = entry
    return tuple(layers)


def _utilization(macs: int, cycles: int, config: Config) -> float:
    return macs / (cycles * config.multipliers) if cycles else 0.0
