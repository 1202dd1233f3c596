"""Planning: which features stay on the chip, which operations run together, where rings lie.

The network is cut into segments. A feature that crosses a cut stays in the scratchpad when there is
room for the whole of it, and goes through main memory otherwise. Cuts and stripe heights are those
of least estimated cost (dynamic programming over the cuts); an operation whose rows do not fit at
all runs block by block (`blocked`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from systolith.hw.config import Config

from .extents import extents_of
from .ir import Feature, Lowered, Matrix, Operation, Window
from .memory import Lifetime, place_all
from .stripes import Extent, Segment, Walk

__all__ = ["STAGES", "Plan", "Planned", "plan_network"]

LONGEST = 8
"""Operations of a segment at most."""

OVERLAP_STRIPES = 4
"""Stripes that an operation is cut into where that costs nothing."""

ROUNDS = 12
"""Attempts to improve what stays on the chip."""

STAGES = 4
"""Output groups of a feature that is only stored: some are written while others leave."""

FIXED_CYCLES = 30
"""Cycles in which a segment's first stripe runs alone, as the cost counts them."""


@dataclass(kw_only=True)
class Planned:
    """One segment with its buffers.

    Parameters
    ----------
    segment
        Its operations.
    capacities
        Rows of each ring.
    stored
        Features that go to main memory.
    staged
        Those that nothing in the segment reads: their rings hold a few channel groups only.
    cost
        Estimated cycles.
    first
        Index of its first operation.
    blocked
        It runs block by block, without rings.
    bases
        Scratchpad addresses of the rings.
    """

    segment: Segment
    capacities: dict[str, int]
    stored: set[str]
    staged: set[str]
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

    @property
    def shape(self) -> tuple[object, ...]:
        """What distinguishes one plan from another."""
        return tuple((planned.first, planned.segment.height, frozenset(planned.segment.whole),
                      frozenset(planned.stored)) for planned in self.segments)


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
        self.lives = {name: self._life(name) for name in lowered.features
                      if name in self.born or name in self.dies}
        self.promoted: tuple[str, ...] = ()
        self.demoted: frozenset[str] = frozenset()
        self.resident: set[str] = set()
        self._found: dict[tuple[int, int, frozenset[str]], Planned | None] = {}

    def _row_words(self, name: str) -> int:
        return self._groups(name) * self.extents[name].width

    def _stage_words(self, name: str) -> int:
        """Words a row of a staged feature: a few output groups at a time."""
        return min(STAGES * self.config.column_words, self._groups(name)) * self.extents[name].width

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
        """Features that stay while there is room: promoted ones first, then the smallest."""
        load = [0] * len(self.operations)
        chosen: set[str] = set()
        names = [name for name in self.lowered.features
                 if name in self.dies and name not in self.spilled | self.demoted]
        rest = sorted(set(names) - set(self.promoted), key=lambda item: (self.words[item], item))
        for name in (*(name for name in self.promoted if name in names), *rest):
            life = self.lives[name]
            if all(load[i] + self.words[name] <= self.config.scratchpad_words for i in life):
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
        if self.config.sequential or operation.light:
            return most  # nothing overlaps, and every instruction costs time and memory
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
            life = self.lives[name]
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
        staged = {name for name in stored if name not in segment.whole
                  and self.dies.get(name, last) >= last and not segment.reads(name)}
        capacities, words = {}, 0
        for name in {*walk.capacities, *segment.present}:
            capacity = walk.capacities.get(name, 1)
            if name in segment.whole:
                capacity = self.extents[name].height
            capacity = min(capacity, self.extents[name].height)
            capacities[name] = capacity
            if name in staged:
                words += capacity * self._stage_words(name)
            else:
                words += capacity * self._row_words(name)
        # What only passes by occupies its place too.
        for name in self.resident - set(capacities):
            life = self.lives[name]
            if life.start < last and life.stop > first and life.start < first:
                words += self.words[name]
        if words > self.config.scratchpad_words:
            return None
        return Planned(segment=segment, capacities=capacities, stored=stored, staged=staged,
                       first=first, cost=self._cost(segment, walk, stored))

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
        memory = moved // config.memory_bytes_per_beat * config.memory_beat_cycles
        # Array and vector unit overlap, but each also waits for the other's stripes.
        return max(array, vector, memory, post) + min(array, vector) // 8 + FIXED_CYCLES

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
            if (planned is not None and found is not planned) or limit == 1:
                return found
            limit = -(-limit // 2)

    def search(self, rounds: int) -> list[Planned]:
        """The cheapest segments; what stays on the chip is improved by `rounds` trials.

        Where a segment costs clearly more than its products, a feature that it reads or makes is
        given room on the chip before others, or one that is there is sent to main memory, or all.
        """
        best = self._partition()
        total = sum(planned.cost for planned in best)
        settled: set[int] = set()
        for _ in range(rounds):
            planned = self._expensive(best, settled)
            if planned is None:
                break
            state = self.promoted, self.demoted
            alive = {name for name, life in self.lives.items() if planned.first in life}
            moves = [((name, *state[0]), state[1]) for name in self._absent(planned)]
            moves += [(state[0], state[1] | {name}) for name in sorted(alive & self.resident)]
            # What is sent away gives room to the next; sometimes no one should stay.
            moves.append((state[0], state[1] | alive))
            tried = []
            for move in moves:
                self.promoted, self.demoted = move
                segments = self._partition()
                tried.append((sum(item.cost for item in segments), move, segments))
            self.promoted, self.demoted = state
            cost, move, segments = min(tried, key=lambda item: item[0], default=(total, state, []))
            if cost < total * 0.999:
                total, (self.promoted, self.demoted), best = cost, move, segments
            else:
                settled.add(planned.first)
            self.resident = self._choose_resident()
        return best

    def _expensive(self, segments: list[Planned], settled: set[int]) -> Planned | None:
        """The segment that loses most cycles of those not settled, if it loses many."""
        losses = [(planned.cost - self._products(planned.segment), -index)
                  for index, planned in enumerate(segments) if planned.first not in settled]
        loss, index = max(losses, default=(0, 0))
        return segments[-index] if 200 * loss > sum(item.cost for item in segments) else None

    def _products(self, segment: Segment) -> int:
        """Cycles of the array when no pass is shorter than a tile's load."""
        pixels = {operation.output: self.heights[operation.output]
                  * self.lowered.features[operation.output].width
                  for operation in segment.operations}
        return sum(self._weight_tiles(operation)
                   * max(pixels[operation.output], self.config.rows)
                   for operation in segment.operations)

    def _absent(self, planned: Planned) -> list[str]:
        """Features of a segment that could stay on the chip but do not."""
        names = {name for operation in planned.segment.operations
                 for name in (*operation.inputs, operation.output)}
        return sorted(name for name in names - self.resident - self.spilled
                      if name in self.dies and self.words[name] <= self.config.scratchpad_words)

    def _partition(self) -> list[Planned]:
        """The cheapest partition into segments for the features promoted."""
        self.resident = self._choose_resident()
        number = len(self.operations)
        cost: list[float] = [0.0] + [float("inf")] * number
        choice: list[Planned | None] = [None] * (number + 1)
        for first in range(number):
            for last in range(first + 1, min(first + LONGEST, number) + 1):
                if last > first + 1 and not self._profits(first, last):
                    continue
                key = first, last, frozenset(
                    name for name in self.resident
                    if self.lives[name].start < last and self.lives[name].stop > first)
                if key not in self._found:
                    self._found[key] = self.best(first, last)
                planned = self._found[key]
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
        return Planned(segment=segment, capacities={}, stored=set(), staged=set(), first=index,
                       blocked=True, cost=1 << 40)


def plan_network(lowered: Lowered, config: Config, stored: set[str], *, separate: bool = False,
                 rounds: int = ROUNDS) -> Plan:
    """Plan a network.

    Parameters
    ----------
    lowered, config
        What to plan for what.
    stored
        Features that must end up in main memory.
    separate
        Every operation is a segment of its own.
    rounds
        Attempts to improve what stays on the chip.
    """
    extents = extents_of(lowered, config)
    spilled: set[str] = set()
    while True:
        planner = _Planner(lowered, config, extents, spilled, stored, separate)
        segments = planner.search(rounds)
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
            if planned.first in planner.lives[name]}


def _place(planner: _Planner, segments: list[Planned]) -> set[str]:
    """Give every ring its address; returns features to spill when they do not fit.

    Best is a place that the next segment does not use at once.
    """
    for slack in (1, 0):
        lifetimes = []
        for index, planned in enumerate(segments):
            for name, capacity in planned.capacities.items():
                row = planner._stage_words if name in planned.staged else planner._row_words
                words = capacity * row(name)
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
