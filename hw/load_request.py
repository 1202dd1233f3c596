"""The asking half of the load mover: walks instructions, checks addresses, requests bursts."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .compare import exceeds
from .config import Config
from .isa import ErrorCode, Fill, Load, LoadTarget
from .loops import count_loops
from .ports import MemoryReadSignature, instruction_layout
from .slices import register_slice

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
    """A chunk that data will arrive for: the `beats` that it touches, and whether it is a `single`
    one; the bytes that it begins and ends with in its first and last beat; whether it ends its
    row."""
    beat = config.memory_bytes_per_beat
    return data.StructLayout({"beats": range((1 << _LENGTH_BITS) // beat + 3), "single": 1,
                              "offset": range(beat), "end": range(beat), "last": 1})


ROW_LAYOUT = data.StructLayout({
    "is_fill": 1, "target": LoadTarget, "address": _ADDRESS_BITS, "value": 8, "more": 16,
    "single": 1, "final": 1,
})
"""A row that the writer will write: for a fill, words behind the first, and whether there are none;
`final` ends its instruction."""


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

        valid, begins = Signal(), Signal()  # `begins`: it is the first of its instruction
        chunk = Signal(data.StructLayout({
            "code": ErrorCode, "is_fill": 1, "source": 32, "target": LoadTarget, "value": 8}))
        length, destination = Signal(_LENGTH_BITS), Signal(_ADDRESS_BITS)
        source_steps = [Signal(32, name=f"source_step_{k}") for k in range(3)]
        address_steps = [Signal(_ADDRESS_BITS, name=f"address_step_{k}") for k in range(2)]
        # Bytes of the row before this chunk, minus 1: what was checked, so that a target holds it.
        before = Signal(signed(self._row_bits))
        end = Signal(self._end_bits)     # last byte of the chunk, counted in its row
        end_word = Signal(self._end_bits)

        moves = Signal()  # the next stage takes what is here, or there is nothing
        row_end, last_row, last_plane = count_loops(m, ~valid, moves, {
            "chunk": (Mux(is_fill, 1, load.chunks), is_fill | (load.chunks == 1)),
            "row": (Mux(is_fill, fill.rows, load.rows),
                    Mux(is_fill, fill.rows == 1, load.rows == 1)),
            "plane": (Mux(is_fill, fill.planes, load.planes),
                      Mux(is_fill, fill.planes == 1, load.planes == 1))})
        m.d.comb += [end.eq(before + length), self.instruction.ready.eq(~valid)]
        with m.If(chunk.is_fill):
            m.d.comb += end_word.eq(end)
        with m.Else(), m.Switch(chunk.target):
            for target, (word_bytes, _) in targets.items():
                with m.Case(target):
                    m.d.comb += end_word.eq(end >> _log2(word_bytes))

        # What belongs to no instruction is looked at by nobody, so that whether there is one
        # decides about nothing else.
        with m.If(moves):
            with m.If(valid):
                m.d.sync += [
                    valid.eq(~(row_end & last_row & last_plane)), begins.eq(0),
                    before.eq(Mux(row_end, -1, end)),
                    chunk.source.eq(chunk.source + Mux(
                        row_end, Mux(last_row, source_steps[2], source_steps[1]),
                        source_steps[0])),
                ]
            with m.Else():
                m.d.sync += [
                    valid.eq(self.instruction.valid), begins.eq(1),
                    before.eq(-1), chunk.source.eq(load.source),
                ]
        with m.If(~valid):
            m.d.sync += [
                chunk.is_fill.eq(is_fill),
                chunk.target.eq(Mux(is_fill, LoadTarget.SCRATCHPAD, load.target)),
                chunk.value.eq(Mux(is_fill, fill.value, load.fill)),
                length.eq(Mux(is_fill, fill.words, load.chunk_bytes)),
                destination.eq(Mux(is_fill, fill.destination, load.destination)),
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
        return {"valid": valid, "chunk": chunk, "length": length, "first": before[-1],
                "end_word": end_word, "begins": begins, "destination": destination,
                "step": Mux(last_row, address_steps[1], address_steps[0]),
                "row_end": row_end, "final": last_row & last_plane, "moves": moves}

    def _check_and_request(self, m, walk):
        config = self._config
        beat_bytes = config.memory_bytes_per_beat
        beat_bits = _log2(beat_bytes)

        # Where the chunk goes, what it touches, and whether it may.
        valid = Signal()
        chunk = Signal.like(walk["chunk"])
        reach = Signal(_LENGTH_BITS)  # bytes of it behind the first
        inside_bits = (config.memory_size - 1).bit_length()
        far = Signal()  # its source has bits that no address in main memory has
        first, row_end, final = Signal(), Signal(), Signal()
        address, step = Signal(_ADDRESS_BITS), Signal(_ADDRESS_BITS)  # to the next row
        end_word, last_word = Signal(self._end_bits), Signal(self._end_bits + 1)
        beyond = Signal.like(last_word)  # bits that no address of the target has
        # A checked chunk waits in the last stage, and moves on; that it does is known late, and
        # goes to each stage by itself.
        there, moved = Signal(), Signal()
        m.d.comb += [
            walk["moves"].eq(~(walk["valid"] & valid & there) | moved),
            last_word.eq(address + end_word),
        ]
        with m.If(~(valid & there) | moved):
            m.d.sync += [
                valid.eq(walk["valid"]), chunk.eq(walk["chunk"]), reach.eq(walk["length"] - 1),
                far.eq(walk["chunk"].source[inside_bits:].any()),
                first.eq(walk["first"]), row_end.eq(walk["row_end"]), final.eq(walk["final"]),
                end_word.eq(walk["end_word"]), step.eq(walk["step"]),
            ]
            with m.If(walk["begins"]):
                m.d.sync += address.eq(walk["destination"])
            with m.Elif(row_end):
                m.d.sync += address.eq(last_word + step)
            with m.Switch(walk["chunk"].target):
                for target, (_, words) in self._targets().items():
                    with m.Case(target):
                        # In the largest memory addresses wrap.
                        m.d.sync += beyond.eq(-words if words < 1 << _ADDRESS_BITS else 0)

        outside = Signal()
        m.d.comb += outside.eq(
            (last_word & beyond).any()
            | (~chunk.is_fill
               & (far | (chunk.source[:inside_bits] + reach >= config.memory_size))))

        # Checked: it goes to the data side when there is room, and is asked for.
        good = Signal()
        code = Signal(ErrorCode)
        beat_address = Signal(inside_bits - beat_bits)
        is_first = Signal()
        row, piece = self.rows.payload, self.chunks.payload
        with m.If(~there | moved):
            checked = Mux(chunk.code != ErrorCode.NONE, chunk.code,
                          Mux(outside, ErrorCode.ADDRESS, ErrorCode.NONE))
            m.d.sync += [
                there.eq(valid), code.eq(checked),
                good.eq(valid & (checked == ErrorCode.NONE)),
                beat_address.eq(chunk.source[beat_bits:inside_bits]),
                Cat(piece.end, piece.beats).eq(beat_bytes + chunk.source[:beat_bits] + reach),
                is_first.eq(first),
                piece.offset.eq(chunk.source[:beat_bits]),
                piece.last.eq(row_end),
                row.is_fill.eq(chunk.is_fill), row.target.eq(chunk.target),
                row.address.eq(address), row.value.eq(chunk.value),
                row.more.eq(reach), row.single.eq(reach[:16] == 0),
                row.final.eq(final),
            ]
        with m.If(there):
            m.d.comb += self.error.eq(code)

        # When the memory takes a burst is known late, and ends here.
        m.submodules.asked = asked = register_slice(self._config, data.StructLayout({
            "address": len(beat_address), "beats": piece.beats.shape()}))
        asking = Signal()
        m.d.comb += [
            moved.eq(good & (self.rows.ready | ~is_first)
                     & (row.is_fill | (asked.i.ready & self.chunks.ready))),
            piece.single.eq(piece.beats == 1),
            self.rows.valid.eq(moved & is_first),
            self.chunks.valid.eq(moved & ~row.is_fill),
            asked.i.valid.eq(moved & ~row.is_fill),
            asked.i.payload.address.eq(beat_address),
            asked.i.payload.beats.eq(piece.beats),
            self.passed.eq(moved & piece.last & row.final),
            self.busy.eq(walk["valid"] | valid | there | asked.o.valid | asking),
        ]

        next_address = Signal.like(beat_address)
        beats_left = Signal.like(piece.beats)
        last_burst = Signal()
        burst = Signal(range(LOAD_BURST_BEATS + 1))
        # Which beat arrived is known late, and counted a cycle later.
        arrived = Signal()
        outstanding = Signal(range(LOAD_WINDOW_BEATS + 2))
        room = Signal()  # in the window, for another burst
        accepted = Signal()
        m.d.comb += [
            burst.eq(Mux(last_burst, beats_left, LOAD_BURST_BEATS)),
            self.request.valid.eq(asking & room),
            self.request.payload.address.eq(next_address << beat_bits),
            self.request.payload.beats.eq(burst),
            accepted.eq(self.request.valid & self.request.ready),
            asked.o.ready.eq(~asking | (room & self.request.ready & last_burst)),
        ]

        def at_most(limit):
            return (outstanding <= limit) | (arrived & (outstanding == limit + 1))

        limit = LOAD_WINDOW_BEATS - LOAD_BURST_BEATS
        m.d.sync += [
            arrived.eq(self.beat),
            outstanding.eq(outstanding + Mux(accepted, burst, 0) - arrived),
            room.eq(Mux(accepted, at_most(limit - LOAD_BURST_BEATS), at_most(limit))),
        ]
        with m.If(asked.o.ready):
            m.d.sync += asking.eq(asked.o.valid)
        # Without anything to ask for, there may be anything here.
        with m.If(~asking | (room & self.request.ready)):
            with m.If(asking & ~last_burst):
                m.d.sync += [
                    next_address.eq(next_address + LOAD_BURST_BEATS),
                    beats_left.eq(beats_left - LOAD_BURST_BEATS),
                    last_burst.eq(~exceeds(beats_left, 2 * LOAD_BURST_BEATS)),
                ]
            with m.Else():
                wanted = asked.o.payload
                m.d.sync += [
                    next_address.eq(wanted.address), beats_left.eq(wanted.beats),
                    last_burst.eq(~exceeds(wanted.beats, LOAD_BURST_BEATS)),
                ]
