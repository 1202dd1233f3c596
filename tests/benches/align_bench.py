"""Packer: random rows, cut into random pieces, against byte strings."""

import cocotb

from systolith.hw.align import piece_layout, word_layout
from systolith.sim.agents import Bench


def rows_and_pieces(bench, inputs, outputs, count):
    """Random rows of (start, bytes), and the pieces they are cut into."""
    rng, rows, pieces = bench.random, [], []
    for _ in range(count):
        start = rng.choice((0, rng.randrange(outputs)))
        row = bytearray()
        for _ in range(length := rng.choice((1, 1, 2, rng.randrange(1, 12)))):
            offset = rng.choice((0, rng.randrange(inputs)))
            size = rng.choice((inputs - offset, rng.randrange(1, inputs - offset + 1)))
            word = rng.randbytes(inputs)
            row += word[offset:offset + size]
            length -= 1
            pieces.append({"data": int.from_bytes(word, "little"), "offset": offset,
                           "count": size, "last": int(length == 0),
                           "start": rng.randrange(outputs)})
        pieces[-1]["last"] = 1
        rows.append((start, bytes(row)))
        first = len(pieces) - 1
        while first and not pieces[first - 1]["last"]:
            first -= 1
        pieces[first]["start"] = start
    return rows, pieces


def rows_of(words, outputs, starts):
    """Rows of bytes from output words; also checks that only last words are short."""
    rows, row, starts = [], bytearray(), iter(starts)
    for word in words:
        assert word.last or word.count == outputs
        row += int(word.data).to_bytes(outputs, "little")[:word.count]
        if word.last:
            start = next(starts)
            rows.append((start, bytes(row[start:])))
            row = bytearray()
    return rows


@cocotb.test()
async def rows_come_out_as_they_went_in(dut):
    bench = Bench(dut)
    inputs, outputs = bench.parameters["inputs"], bench.parameters["outputs"]
    source = bench.source("i", piece_layout(inputs, outputs),
                          stalls=bench.stalls(bench.parameters["stall_in"], burst=3))
    sink = bench.sink("o", word_layout(outputs),
                      stalls=bench.stalls(bench.parameters["stall_out"], burst=3))
    await bench.reset()
    rows, pieces = rows_and_pieces(bench, inputs, outputs, 400)
    source.send(pieces)
    words = sum(-(-(start + len(row)) // outputs) for start, row in rows)
    result = rows_of(await sink.receive(words), outputs, [start for start, _ in rows])
    assert result == rows, f"seed {bench.seed}"
    await bench.ticks(20)
    assert not sink.items


@cocotb.test()
async def full_rate(dut):
    """Long unaligned rows back to back: a piece or a word every cycle."""
    bench = Bench(dut)
    inputs, outputs = bench.parameters["inputs"], bench.parameters["outputs"]
    source = bench.source("i", piece_layout(inputs, outputs))
    sink = bench.sink("o", word_layout(outputs))
    await bench.reset()
    start, length, rows = outputs - 1, 32 * max(inputs, outputs), 4
    for _ in range(rows):
        source.send({"data": 0, "offset": 0, "count": inputs, "start": start,
                     "last": int(i == length // inputs - 1)} for i in range(length // inputs))
    words = -(-(start + length) // outputs)
    begin = bench.cycle
    await sink.receive(rows * words)
    # Each row's last word is a nearly empty one, which costs its cycle where words are narrower.
    assert bench.cycle - begin <= rows * max(length // inputs, words) + 3
