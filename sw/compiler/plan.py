"""Planning: which features stay on the chip, which operations run together, where rings lie.

The network is cut into segments. A feature that crosses a cut stays in the scratchpad when there is
room for the whole of it, and goes through main memory otherwise. Cuts and stripe heights are those
of least estimated cost (dynamic programming over the cuts); an operation whose rows do not fit at
all runs block by block (`blocked`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from systolith.hw.config import Config

from .ir import Feature, Lowered, Matrix, Operation, Window
from .memory import Lifetime, place_all
from .stripes import Extent, Segment, Walk

__all__ = ["Plan", "Planned", "extents_of", "plan_network"]

LONGEST = 8
"""Operations of a segment at most."""

OVERLAP_STRIPES = 4
"""Stripes that an operation is cut into where that costs nothing."""

FIXED_CYCLES = 150
"""Cycles in which a segment's first stripe runs alone, as the cost counts them."""


@dataclass(kw_only=True)
class Planned:
    """One segment with its buffers: rows of each ring, base addresses, what is stored.

    A segment without rings runs block by block.
    """

    segment: Segment
    capacities: dict[str, int]
    stored: set[str]
    cost: int
    first: int
    blocked: bool = False
    bases: dict[str, int] = field(default_factory=dict)


@dataclass
class Plan:
    """Segments in order, and the features that live in main memory at some time."""

    segments: list[Planned]
    extents: dict[str, Extent]
    spilled: set[str]


class _Nothing:
    """A sink for walks that only measure."""

    def begin(self, feature: str) -> None:
        """Nothing."""

    def load(self, feature: str, top: int, bottom: int) -> None:
        """Nothing."""

    def pad(self, feature: str, top: int, bottom: int) -> None:
        """Nothing."""

    def compute(self, operation: Operation, top: int, bottom: int,
                ahead: Callable[[], None]) -> None:
        """Only the loads in between."""
        ahead()


def extents_of(lowered: Lowered, config: Config) -> dict[str, Extent]:
    """Buffer extents of all features: what any consumer reads, padding included."""
    result = {}
    for name, feature in lowered.features.items():
        top, bottom, left, right, value = 0, feature.height, 0, feature.width, feature.zero_point
        for operation in lowered.operations:
            output = lowered.features[operation.output]
            for source in operation.sources:
                if source.feature != name or _broadcasts(operation, source.feature):
                    continue
                low, high = source.span(0, 0, output.height)
                first, last = source.span(1, 0, output.width)
                if min(low, first) < 0 or high > feature.height or last > feature.width:
                    value = source.pad_value
                top, bottom = min(top, low), max(bottom, high)
                left, right = min(left, first), max(right, last)
        result[name] = Extent(top, bottom, left, right, value)
    if config.columns > config.rows:
        _join_widths(lowered, result)
    return result


def _broadcasts(operation: Operation, feature: str) -> bool:
    return getattr(operation, "broadcast", False) and operation.sources[0].feature != feature


def _join_widths(lowered: Lowered, extents: dict[str, Extent]) -> None:
    """Give the two sides of a residual add one pitch: POST steps both by the same amount."""
    changed = True
    while changed:
        changed = False
        for operation in lowered.operations:
            residual = operation.finish.residual
            if residual is None:
                continue
            pair = operation.output, residual.feature
            left = min(extents[name].left for name in pair)
            right = max(extents[name].right for name in pair)
            for name in pair:
                old = extents[name]
                if (old.left, old.right) != (left, right):
                    extents[name] = Extent(old.top, old.bottom, left, right, old.pad_value)
                    changed = True


class _Planner:
    def __init__(self, lowered: Lowered, config: Config, extents: dict[str, Extent],
                 spilled: set[str], stored: set[str], separate: bool):
        self.lowered = lowered
        self.config = config
        self.operations = lowered.operations
        self.extents = extents
        self.spilled = spilled  # may not stay on the chip over a cut
        self.kept = stored      # go to main memory whatever else happens
        self.separate = separate
        self.heights = {name: feature.height for name, feature in lowered.features.items()}
        self.born = {operation.output: index for index, operation in enumerate(self.operations)}
        self.dies = {name: index for index, operation in enumerate(self.operations)
                     for name in operation.inputs}
        self.words = {name: self._row_words(name) * extents[name].height
                      for name in lowered.features}
        self.resident = self._choose_resident()

    def _row_words(self, name: str) -> int:
        return self._groups(name) * self.extents[name].width

    def _groups(self, name: str) -> int:
        feature: Feature = self.lowered.features[name]
        return feature.buffer_groups(self.config)

    # Residency ----------------------------------------------------------------------------------

    def _life(self, name: str) -> range:
        """Operations during which a feature is alive."""
        first = self.born.get(name)
        if first is None:  # an input lives from its first use on
            first = next(i for i, operation in enumerate(self.operations)
                         if name in operation.inputs)
        return range(first, self.dies.get(name, first) + 1)

    def _choose_resident(self) -> set[str]:
        """Features that stay, smallest first, while half the scratchpad is free for streams."""
        load = [0] * len(self.operations)
        chosen: set[str] = set()
        names = [name for name in self.lowered.features
                 if name in self.dies and name not in self.spilled]
        total = self.config.scratchpad_words
        for name in sorted(names, key=lambda item: (self.words[item], item)):
            life = self._life(name)
            if all(load[i] + self.words[name] <= total for i in life):
                chosen.add(name)
                for i in life:
                    load[i] += self.words[name]
        return chosen

    # Segments -----------------------------------------------------------------------------------

    def _limit(self, operation: Operation) -> int:
        feature = self.lowered.features[operation.output]
        words = self.config.accumulator_words
        if isinstance(operation, Window):
            words = self.config.vector_accumulator_words
        most = max(1, min(feature.height, words // feature.width))
        if self._weight_tiles(operation) * self.config.rows * 2 > self.config.weight_words:
            return most  # each stripe streams the weights again
        # Several stripes, so that the engines of neighbouring operations overlap; but no pass may
        # be shorter than the next tile takes to load.
        least = -(-self.config.rows // feature.width)
        return max(min(most, -(-feature.height // OVERLAP_STRIPES)), min(most, least))

    def segment(self, first: int, last: int, height: int) -> Segment:
        """Operations [first, last) with stripes of `height`."""
        operations = self.operations[first:last]
        used = {name for operation in operations for name in operation.inputs}
        made = {operation.output for operation in operations}
        whole = set()
        present = set()
        for name in used | made:
            life = self._life(name)
            inside = first <= life.start and life.stop <= last
            if name in self.resident and not inside:
                whole.add(name)
                if life.start < first:
                    present.add(name)
        return Segment(
            operations=operations, height=height,
            limits={operation.output: min(self._limit(operation), height)
                    if operation is operations[-1] else self._limit(operation)
                    for operation in operations},
            loaded=used - made - present, whole=whole, present=present,
            extents=self.extents, heights=self.heights)

    def stored(self, first: int, last: int) -> set[str]:
        """Features made in operations [first, last) that go to main memory."""
        return {operation.output for operation in self.operations[first:last]
                if operation.output in self.kept
                or (self.dies.get(operation.output, -1) >= last
                    and operation.output not in self.resident)}

    def measure(self, first: int, last: int, height: int) -> Planned | None:
        """A candidate, or None when its rings do not fit."""
        segment = self.segment(first, last, height)
        walk = Walk(segment, _Nothing())
        walk.run()
        stored = self.stored(first, last)
        capacities, words = {}, 0
        for name in {*walk.capacities, *segment.present}:
            capacity = walk.capacities.get(name, 1)
            if name in segment.whole:
                capacity = self.extents[name].height
            elif name in stored and name not in self.dies:
                capacity += max(walk.stripes[name])  # write a stripe while another is stored
            capacity = min(capacity, self.extents[name].height)
            capacities[name] = capacity
            words += capacity * self._row_words(name)
        # What only passes by occupies its place too.
        for name in self.resident - set(capacities):
            life = self._life(name)
            if life.start < last and life.stop > first and life.start < first:
                words += self.words[name]
        if words > self.config.scratchpad_words:
            return None
        return Planned(segment=segment, capacities=capacities, stored=stored, first=first,
                       cost=self._cost(segment, walk, stored))

    # Cost ---------------------------------------------------------------------------------------

    def _cost(self, segment: Segment, walk: Walk, stored: set[str]) -> int:
        """Rough cycles: the busiest engine, or the memory port, and the stripe that runs alone."""
        config = self.config
        array = vector = post = moved = 0
        weights = {operation.output: self._weight_tiles(operation)
                   for operation in segment.operations}
        together = sum(weights.values()) * config.rows <= config.weight_words
        for operation in segment.operations:
            feature = self.lowered.features[operation.output]
            stripes = walk.stripes[operation.output]
            groups = -(-feature.channels // (config.columns if isinstance(operation, Matrix)
                                             else config.rows))
            lanes = config.columns if isinstance(operation, Matrix) else config.rows
            post += feature.height * feature.width * groups * -(-lanes // config.lanes)
            for rows in stripes:
                pixels = rows * feature.width
                if isinstance(operation, Matrix):
                    array += weights[operation.output] * max(pixels, config.rows)
                elif isinstance(operation, Window):
                    source = operation.sources[0]
                    chunks = -(-source.kernel[1] // config.vector_taps)
                    vector += (groups * rows * source.kernel[0] * chunks
                               * (feature.width * source.stride[1] + source.kernel[1]))
            streams = 1 if together else len(stripes)
            moved += weights[operation.output] * config.rows * config.weight_word_bytes * streams
        for name in segment.loaded | stored:
            feature = self.lowered.features[name]
            times = (name in segment.loaded) + (name in stored)
            moved += times * feature.height * feature.width * self._groups(name) * config.rows
        memory = moved // config.memory_bytes_per_beat
        # Units in one segment follow each other's stripes; each waits for the other's.
        return max(array + vector, memory, post) + FIXED_CYCLES

    def _weight_tiles(self, operation: Operation) -> int:
        if not isinstance(operation, Matrix):
            return 0
        total = 0
        for weight in operation.weights:
            outputs, depth, height, width = weight.shape
            columns = -(-outputs // self.config.columns)
            if operation.channel_groups > 1:
                part = self.config.columns / (outputs // operation.channel_groups)
                depth = min(depth * operation.channel_groups, int(-(-part // 1)) * depth)
            total += columns * -(-depth // self.config.rows) * height * width
        return total

    # Search -------------------------------------------------------------------------------------

    def best(self, first: int, last: int) -> Planned | None:
        """The cheapest stripe height for operations [first, last)."""
        limit = self._limit(self.operations[last - 1])
        height = self.heights[self.operations[last - 1].output]
        found: Planned | None = None
        while True:
            stripes = -(-height // limit)
            planned = self.measure(first, last, -(-height // stripes))
            if planned is not None and (found is None or planned.cost < found.cost):
                found = planned
            if planned is not None and found is not planned or limit == 1:
                return found
            limit = -(-limit // 2)

    def search(self) -> list[Planned]:
        """The cheapest partition into segments."""
        number = len(self.operations)
        cost: list[float] = [0.0] + [float("inf")] * number
        choice: list[Planned | None] = [None] * (number + 1)
        for first in range(number):
            for last in range(first + 1, min(first + LONGEST, number) + 1):
                if last > first + 1 and not self._profits(first, last):
                    continue
                planned = self.best(first, last)
                if planned is None:
                    if last > first + 1:
                        break
                    planned = self._blocked(first)
                if cost[first] + planned.cost < cost[last]:
                    cost[last] = cost[first] + planned.cost
                    choice[last] = planned
        segments = []
        position = number
        while position:
            planned = choice[position]
            assert planned is not None
            segments.append(planned)
            position = planned.first
        return segments[::-1]

    def _profits(self, first: int, last: int) -> bool:
        """Whether a feature inside of [first, last) would otherwise go through main memory."""
        return not self.separate and any(operation.output not in self.resident
                   for operation in self.operations[first:last - 1])

    def _blocked(self, index: int) -> Planned:
        segment = self.segment(index, index + 1, 1)
        return Planned(segment=segment, capacities={}, stored=set(), first=index, blocked=True,
                       cost=1 << 40)


def plan_network(lowered: Lowered, config: Config, stored: set[str], separate: bool) -> Plan:
    """Plan a network; `stored` are the features that must end up in main memory.

    With `separate` every operation is a segment of its own.
    """
    extents = extents_of(lowered, config)
    spilled: set[str] = set()
    while True:
        planner = _Planner(lowered, config, extents, spilled, stored, separate)
        segments = planner.search()
        trouble = _blocked_residents(planner, segments)
        if not trouble:
            trouble = _place(planner, segments)
        if not trouble:
            break
        spilled |= trouble
    main = set(lowered.inputs) | stored
    for planned in segments:
        main |= planned.stored | planned.segment.loaded
        if planned.blocked:
            main |= {*planned.segment.operations[0].inputs, planned.segment.operations[0].output}
    return Plan(segments=segments, extents=extents, spilled=main)


def _blocked_residents(planner: _Planner, segments: list[Planned]) -> set[str]:
    """Resident features that are alive while an operation needs the whole scratchpad."""
    return {name for planned in segments if planned.blocked for name in planner.resident
            if planned.first in planner._life(name)}


def _place(planner: _Planner, segments: list[Planned]) -> set[str]:
    """Give every ring its address; returns features to spill when they do not fit."""
    for slack in (1, 0):
        lifetimes = []
        for index, planned in enumerate(segments):
            for name, capacity in planned.capacities.items():
                words = capacity * planner._row_words(name)
                if name not in planned.segment.whole:
                    lifetimes.append(Lifetime(f"{index} {name}", words, index,
                                              index + slack))
        for name in planner.resident:
            inside = [index for index, planned in enumerate(segments)
                      if name in planned.segment.whole]
            if inside:
                lifetimes.append(Lifetime(name, planner.words[name], inside[0],
                                          inside[-1] + slack))
        addresses, size = place_all(lifetimes, 1)
        if size <= planner.config.scratchpad_words:
            for index, planned in enumerate(segments):
                planned.bases = {name: addresses[name if name in planned.segment.whole
                                                 else f"{index} {name}"]
                                 for name in planned.capacities}
            return set()
    largest = max(planner.resident, key=lambda name: (planner.words[name], name), default=None)
    assert largest is not None, "segments without resident features fit by construction"
    return {largest}
