"""Byte alignment: packs pieces of one word width into words of another."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Packer", "piece_layout", "word_layout"]


def _log2(value: int) -> int:
    return value.bit_length() - 1


def piece_layout(input_bytes: int, output_bytes: int) -> data.StructLayout:
    """Payload of a packer's input."""
    return data.StructLayout({
        "data": 8 * input_bytes, "offset": range(input_bytes), "count": range(input_bytes + 1),
        "start": range(output_bytes), "last": 1})


def word_layout(output_bytes: int) -> data.StructLayout:
    """Payload of a packer's output."""
    return data.StructLayout({
        "data": 8 * output_bytes, "count": range(output_bytes + 1), "last": 1})


class Packer(wiring.Component):
    """Packs the valid bytes of its input behind each other into full words, row by row.

    An input piece adds the bytes `offset` to `offset + count - 1` of `data` to the current row. The
    first byte of a row is placed at byte `start` of an output word; every row begins a new word.
    Bytes of an output word that no input byte was written to are not defined: `count` says where a
    row's last word ends, and the first word's beginning is known to whom gave `start`.

    Sustains a piece a cycle or a word a cycle, whichever is the bottleneck. There is a
    combinational path from `o.ready` to `i.ready`, and none from `i` to `o`: a word appears on `o`
    two cycles after its last byte was accepted.

    Parameters
    ----------
    input_bytes, output_bytes : int
        Widths, powers of two.

    Members
    -------
    i : In(stream)
        `data`; `offset` of the first valid byte; `count` of valid bytes, at least 1, with
        `offset + count <= input_bytes`; `start`, looked at in a row's first piece; `last` in the
        row's last piece.
    o : Out(stream)
        `data`; `count`, bytes from byte 0 to the end of the row or the word; `last` in the row's
        last word.
    """

    def __init__(self, input_bytes: int, output_bytes: int):
        for name, value in (("input_bytes", input_bytes), ("output_bytes", output_bytes)):
            if value < 2 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two and at least 2, not {value}")
        self.input_bytes = input_bytes
        self.output_bytes = output_bytes
        super().__init__({
            "i": In(stream.Signature(piece_layout(input_bytes, output_bytes))),
            "o": Out(stream.Signature(word_layout(output_bytes))),
        })

    def elaborate(self, platform):
        m = Module()
        piece = self.i.payload
        inputs, outputs = self.input_bytes, self.output_bytes
        size = 2 * max(inputs, outputs)  # of the ring of bytes, in which a row's bytes wander
        slots, blocks = size // outputs, size // inputs
        input_bits, output_bits = _log2(inputs), _log2(outputs)

        # Where a piece goes, and its bytes turned to their places ...
        begun = Signal()                # the row has bytes already
        filled = Signal(output_bits)    # bytes of the slot being filled
        write_slot = Signal(range(slots))
        place = Signal(output_bits)
        end = Signal(range(outputs + inputs))
        touched = Signal(range(slots + 2))  # slots that the piece writes to
        advance = Signal(range(slots + 2))  # slots that it completes
        m.d.comb += [
            place.eq(Mux(begun, filled, piece.start)),
            end.eq(place + piece.count),
            # Out of a table, as the sum is late and has few values.
            touched.eq(Array(-(-nbytes // outputs) for nbytes in range(outputs + inputs))[end]),
            advance.eq(Mux(piece.last, touched, end >> output_bits)),
        ]
        # Byte `offset` goes to ring position `place`: rotate within the input's width, then each
        # rotated byte has one block of the ring to go to.
        position = Cat(place, write_slot)
        lane_place, block_place = position[:input_bits], position[input_bits:]
        turn = Signal(input_bits)
        m.d.comb += turn.eq(lane_place - piece.offset)
        rotated, mask = piece.data, Cat(piece.count > lane for lane in range(inputs))
        for k in range(input_bits):
            rotated = Mux(turn[k], rotated.rotate_left(8 << k), rotated)
            mask = Mux(lane_place[k], mask.rotate_left(1 << k), mask)

        # ... are held until the ring has room for them.
        held = Signal()
        accept, deliver = Signal(), Signal()
        turned = Signal(data.StructLayout({
            "data": 8 * inputs, "mask": inputs, "blocks": data.ArrayLayout(range(blocks), inputs),
            "slot": range(slots), "final_slot": range(slots), "end": output_bits + 1,
            "touched": touched.shape(), "advance": advance.shape(), "last": 1}), reset_less=True)
        m.d.comb += self.i.ready.eq(~held | accept)
        with m.If(self.i.ready):
            m.d.sync += [
                held.eq(self.i.valid),
                turned.data.eq(rotated),
                turned.mask.eq(mask),
                *(turned.blocks[lane].eq(block_place + (lane_place > lane))
                  for lane in range(inputs)),
                turned.slot.eq(write_slot),
                turned.final_slot.eq(write_slot + touched - 1),
                turned.end.eq(((end - 1) & (outputs - 1)) + 1),
                turned.touched.eq(touched),
                turned.advance.eq(advance),
                turned.last.eq(piece.last),
            ]
            with m.If(self.i.valid):
                m.d.sync += [begun.eq(~piece.last), filled.eq(end),
                             write_slot.eq(write_slot + advance)]

        finished = Signal(range(slots + 1))  # words that wait on the output
        read_slot = Signal(range(slots))
        # Bit k: there is room for k more words. Whether the piece is taken, and whether a word
        # leaves, is known late and looked at last.
        room = Signal(slots + 1, init=~0)
        grown, without = Signal.like(finished), Signal.like(room)
        m.d.comb += [
            grown.eq(finished + turned.advance),
            without.eq(Mux(accept, Cat(grown <= slots - k for k in range(slots + 1)), room)),
            accept.eq(held & (room.bit_select(turned.touched, 1)
                              | (deliver & Cat(1, room).bit_select(turned.touched, 1)))),
            deliver.eq(self.o.valid & self.o.ready),
            self.o.valid.eq(~room[slots]),
        ]
        m.d.sync += [finished.eq(Mux(accept, grown, finished) - deliver),
                     room.eq(Mux(deliver, Cat(1, without), without))]
        with m.If(deliver):
            m.d.sync += read_slot.eq(read_slot + 1)

        ring = [[Signal(8, name=f"byte_{block}_{lane}") for lane in range(inputs)]
                for block in range(blocks)]
        ends = [Signal(output_bits + 1, name=f"end_{slot}") for slot in range(slots)]
        lasts = [Signal(name=f"last_{slot}") for slot in range(slots)]
        with m.If(accept):
            for lane in range(inputs):
                for block in range(blocks):
                    with m.If(turned.mask[lane] & (turned.blocks[lane] == block)):
                        m.d.sync += ring[block][lane].eq(turned.data.word_select(lane, 8))
            for slot in range(slots):
                with m.If(turned.final_slot == slot):
                    m.d.sync += [ends[slot].eq(turned.end), lasts[slot].eq(turned.last)]
                with m.Elif(((slot - turned.slot) & (slots - 1)) < turned.touched):
                    m.d.sync += lasts[slot].eq(0)

        flat = [byte for block in ring for byte in block]
        with m.Switch(read_slot):
            for slot in range(slots):
                with m.Case(slot):
                    m.d.comb += [
                        self.o.payload.data.eq(Cat(flat[slot * outputs:(slot + 1) * outputs])),
                        self.o.payload.last.eq(lasts[slot]),
                        self.o.payload.count.eq(Mux(lasts[slot], ends[slot], outputs)),
                    ]
        return m
