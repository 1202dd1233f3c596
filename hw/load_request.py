"""The asking half of the load mover: walks instructions, checks addresses, requests bursts."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .compare import exceeds
from .config import Config
from .isa import ErrorCode, Fill, Load, LoadTarget
from .loops import count_levels
from .ports import MemoryReadSignature, instruction_layout

__all__ = ["LOAD_BURST_BEATS", "LOAD_LAYOUT", "LOAD_WINDOW_BEATS", "ROW_LAYOUT", "LoadRequester",
           "chunk_layout"]

LOAD_BURST_BEATS = 32
"""Longest burst that the mover asks for: others wait at most that long for their turn."""

LOAD_WINDOW_BEATS = 128
"""Beats that the mover has outstanding at most. More would hide a longer latency, and would let
everybody else's reads queue up behind them."""

LOAD_LAYOUT = data.StructLayout({
    "is_fill": 1,
    "fields": data.UnionLayout({"load": instruction_layout(Load),
                                "fill": instruction_layout(Fill)}),
})
"""What the engine of queue LOAD takes: the fields of LOAD, or, with `is_fill`, of FILL."""

_ADDRESS_BITS = 20   # of a word address on the chip
_LENGTH_BITS = 20    # of the bytes of a chunk


def _log2(value: int) -> int:
    return value.bit_length() - 1


def chunk_layout(config: Config) -> data.StructLayout:
    """A chunk that data will arrive for: where it begins in its first beat, its bytes, and whether
    it ends its row."""
    return data.StructLayout({"offset": range(config.memory_bytes_per_beat),
                              "length": _LENGTH_BITS, "last": 1})


ROW_LAYOUT = data.StructLayout({
    "is_fill": 1, "target": LoadTarget, "address": _ADDRESS_BITS, "value": 8, "words": 16,
    "single": 1, "final": 1,
})
"""A row that the writer will write: `words` for a fill, and whether it is one; `final` ends its
instruction."""


class LoadRequester(wiring.Component):
    """Walks the instructions, checks every address before it is used, and asks for the data.

    Members: `instruction`; `read`, the request side of the memory port; `beat`, a pulse for each
    beat that arrived; `chunks` and `rows`, what the data side will need, in order; `passed`, a
    pulse when an instruction has gone by without error; `error`, why it did not; `busy`.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__({
            "instruction": In(stream.Signature(LOAD_LAYOUT)),
            "request": Out(MemoryReadSignature(config).members["request"].signature),
            "beat": In(1),
            "chunks": Out(stream.Signature(chunk_layout(config))),
            "rows": Out(stream.Signature(ROW_LAYOUT)),
            "passed": Out(1),
            "error": Out(ErrorCode),
            "busy": Out(1),
        })

    def _targets(self):
        """Word bytes and number of words of each target that there is."""
        config = self._config
        targets = {
            LoadTarget.SCRATCHPAD: (config.rows, config.scratchpad_words),
            LoadTarget.WEIGHT: (config.weight_word_bytes, config.weight_words),
            LoadTarget.PARAMETER: (config.parameter_word_bytes, config.parameter_words),
        }
        if config.vector_taps:
            targets[LoadTarget.VECTOR_WEIGHT] = (config.rows, config.vector_weight_words)
        if config.table:
            targets[LoadTarget.TABLE] = (config.rows, 256 // config.rows)
        return targets

    def elaborate(self, platform):
        m = Module()
        # A row is checked chunk by chunk, and ends with what the largest target holds. Where its
        # addresses wrap, that is 255 chunks of 2^20 - 1 bytes.
        words = self._config.scratchpad_words
        most = (max(word_bytes * count for word_bytes, count in self._targets().values())
                if words < 1 << _ADDRESS_BITS else 255 << _LENGTH_BITS)
        self._row_bits = (most - 1).bit_length() + 1
        self._end_bits = max(self._row_bits - 1, _LENGTH_BITS) + 1
        walk = self._walk(m)
        self._check_and_request(m, walk)
        return m

    def _walk(self, m):
        """One chunk (of a fill: one row) a cycle, unchecked."""
        targets = self._targets()
        load, fill = self.instruction.payload.fields.load, self.instruction.payload.fields.fill
        is_fill = self.instruction.payload.is_fill

        valid = Signal()
        chunk = Signal(data.StructLayout({
            "code": ErrorCode, "is_fill": 1, "source": 32, "length": _LENGTH_BITS,
            "address": _ADDRESS_BITS, "target": LoadTarget, "value": 8}))
        # How many there are, and which it is, from 1 on.
        chunks, chunk_number = Signal(8), Signal(8)
        rows, row_number = Signal(16), Signal(16)
        planes, plane_number = Signal(16), Signal(16)
        source_steps = [Signal(32, name=f"source_step_{k}") for k in range(3)]
        address_steps = [Signal(_ADDRESS_BITS, name=f"address_step_{k}") for k in range(2)]
        # Bytes of the row before this chunk, minus 1: what was checked, so that a target holds it.
        before = Signal(signed(self._row_bits))
        end = Signal(self._end_bits)     # last byte of the chunk, counted in its row
        end_word = Signal(self._end_bits)

        taken = Signal()  # by the next stage
        row_end, plane_end, finished = Signal(), Signal(), Signal()
        m.d.comb += [
            row_end.eq(chunk_number == chunks),
            plane_end.eq(row_end & (row_number == rows)),
            finished.eq(plane_end & (plane_number == planes)),
            end.eq(before + chunk.length),
            self.instruction.ready.eq(~valid),
        ]
        with m.If(chunk.is_fill):
            m.d.comb += end_word.eq(end)
        with m.Else(), m.Switch(chunk.target):
            for target, (word_bytes, _) in targets.items():
                with m.Case(target):
                    m.d.comb += end_word.eq(end >> _log2(word_bytes))

        with m.If(taken):
            m.d.sync += [
                valid.eq(~finished),
                chunk.source.eq(chunk.source + Mux(
                    plane_end, source_steps[2], Mux(row_end, source_steps[1], source_steps[0]))),
                before.eq(Mux(row_end, -1, end)),
            ]
            with m.If(row_end):
                m.d.sync += chunk.address.eq(
                    chunk.address + end_word[:_ADDRESS_BITS]
                    + Mux(plane_end, address_steps[1], address_steps[0]))

        accept = Signal()
        m.d.comb += accept.eq(self.instruction.valid & self.instruction.ready)
        count_levels(m, accept, taken, (
            (chunk_number, 1, row_end), (row_number, row_end, plane_end),
            (plane_number, plane_end, 0)))
        with m.If(accept):
            m.d.sync += [
                valid.eq(1),
                before.eq(-1),
                chunk.is_fill.eq(is_fill),
                chunk.source.eq(load.source),
                chunk.length.eq(Mux(is_fill, fill.words, load.chunk_bytes)),
                chunk.address.eq(Mux(is_fill, fill.destination, load.destination)),
                chunk.target.eq(Mux(is_fill, LoadTarget.SCRATCHPAD, load.target)),
                chunk.value.eq(Mux(is_fill, fill.value, load.fill)),
                chunks.eq(Mux(is_fill, 1, load.chunks)),
                rows.eq(Mux(is_fill, fill.rows, load.rows)),
                planes.eq(Mux(is_fill, fill.planes, load.planes)),
                *(step.eq(value) for step, value in zip(
                    source_steps, (load.chunk_step, load.row_step, load.plane_step), strict=True)),
                address_steps[0].eq(Mux(is_fill, fill.row_step, load.destination_row_step)),
                address_steps[1].eq(Mux(is_fill, fill.plane_step, load.destination_plane_step)),
                chunk.code.eq(ErrorCode.NONE),
            ]
            zero_load = ((load.chunk_bytes == 0) | (load.chunks == 0) | (load.rows == 0)
                         | (load.planes == 0))
            zero_fill = (fill.words == 0) | (fill.rows == 0) | (fill.planes == 0)
            with m.If(Mux(is_fill, zero_fill, zero_load)):
                m.d.sync += chunk.code.eq(ErrorCode.LENGTH)
            known = Cat(load.target == target for target in targets).any()
            with m.If(~is_fill & ~known):
                m.d.sync += chunk.code.eq(ErrorCode.DECODE)
        return {"valid": valid, "chunk": chunk, "first": before[-1], "end_word": end_word,
                "row_end": row_end, "final": (row_number == rows) & (plane_number == planes),
                "taken": taken}

    def _check_and_request(self, m, walk):
        config = self._config
        beat_bytes = config.memory_bytes_per_beat
        beat_bits = _log2(beat_bytes)

        # What the chunk touches, and whether it may.
        valid = Signal()
        chunk = Signal.like(walk["chunk"])
        first, row_end, final = Signal(), Signal(), Signal()
        end_word = Signal(self._end_bits)
        taken = Signal()  # by the last stage
        m.d.comb += walk["taken"].eq(walk["valid"] & (~valid | taken))
        with m.If(walk["taken"]):
            m.d.sync += [
                valid.eq(1), chunk.eq(walk["chunk"]), first.eq(walk["first"]),
                row_end.eq(walk["row_end"]), final.eq(walk["final"]),
                end_word.eq(walk["end_word"]),
            ]
        with m.Elif(taken):
            m.d.sync += valid.eq(0)

        outside = Signal()
        with m.If(~chunk.is_fill & exceeds(chunk.source + chunk.length, config.memory_size)):
            m.d.comb += outside.eq(1)
        with m.Switch(chunk.target):
            for target, (_, words) in self._targets().items():
                if words < 1 << _ADDRESS_BITS:  # in the largest memory addresses wrap
                    with m.Case(target), m.If(chunk.address + end_word >= words):
                        m.d.comb += outside.eq(1)

        # Checked: it goes to the data side when there is room, and is asked for.
        there, good = Signal(), Signal()
        code = Signal(ErrorCode)
        beat_address = Signal(32 - beat_bits)
        beats = Signal(range((1 << _LENGTH_BITS) // beat_bytes + 3))
        is_first = Signal()
        row, piece = self.rows.payload, self.chunks.payload
        moved = Signal()
        m.d.comb += taken.eq(valid & (~there | moved))
        with m.If(taken):
            checked = Mux(chunk.code != ErrorCode.NONE, chunk.code,
                          Mux(outside, ErrorCode.ADDRESS, ErrorCode.NONE))
            m.d.sync += [
                there.eq(1), code.eq(checked), good.eq(checked == ErrorCode.NONE),
                beat_address.eq(chunk.source[beat_bits:]),
                beats.eq((chunk.source[:beat_bits] + chunk.length + beat_bytes - 1) >> beat_bits),
                is_first.eq(first),
                piece.offset.eq(chunk.source[:beat_bits]), piece.length.eq(chunk.length),
                piece.last.eq(row_end),
                row.is_fill.eq(chunk.is_fill), row.target.eq(chunk.target),
                row.address.eq(chunk.address), row.value.eq(chunk.value),
                row.words.eq(chunk.length), row.single.eq(chunk.length[:16] == 1),
                row.final.eq(final),
            ]
        with m.Elif(moved):
            m.d.sync += [there.eq(0), good.eq(0)]
        with m.If(there):
            m.d.comb += self.error.eq(code)

        asking = Signal()
        asked = Signal()  # the chunk's last burst was accepted
        m.d.comb += [
            moved.eq(good & (self.rows.ready | ~is_first)
                     & (row.is_fill | ((~asking | asked) & self.chunks.ready))),
            self.rows.valid.eq(moved & is_first),
            self.chunks.valid.eq(moved & ~row.is_fill),
            self.passed.eq(moved & piece.last & row.final),
            self.busy.eq(walk["valid"] | valid | there | asking),
        ]

        next_address = Signal.like(beat_address)
        beats_left = Signal.like(beats)
        last_burst = Signal()
        burst = Signal(range(LOAD_BURST_BEATS + 1))
        outstanding = Signal(range(LOAD_WINDOW_BEATS + 1))
        room = Signal()  # in the window, for another burst
        accepted = Signal()
        m.d.comb += [
            burst.eq(Mux(last_burst, beats_left, LOAD_BURST_BEATS)),
            self.request.valid.eq(asking & room),
            self.request.payload.address.eq(next_address << beat_bits),
            self.request.payload.beats.eq(burst),
            accepted.eq(self.request.valid & self.request.ready),
            asked.eq(accepted & last_burst),
        ]
        limit = LOAD_WINDOW_BEATS - LOAD_BURST_BEATS
        m.d.sync += [
            outstanding.eq(outstanding + Mux(accepted, burst, 0) - self.beat),
            room.eq(Mux(accepted, outstanding <= limit - LOAD_BURST_BEATS, outstanding <= limit)),
        ]
        with m.If(accepted):
            m.d.sync += [
                next_address.eq(next_address + LOAD_BURST_BEATS),
                beats_left.eq(beats_left - LOAD_BURST_BEATS),
                last_burst.eq(~exceeds(beats_left, 2 * LOAD_BURST_BEATS)),
            ]
        with m.If(asked):
            m.d.sync += asking.eq(0)
        with m.If(moved & ~row.is_fill):
            m.d.sync += [
                asking.eq(1), next_address.eq(beat_address), beats_left.eq(beats),
                last_burst.eq(~exceeds(beats, LOAD_BURST_BEATS)),
            ]
