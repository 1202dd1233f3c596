"""Stand-ins for what lies behind a link: a core without arithmetic, and devices made of peers."""

import numpy as np

from systolith.driver.link import Link
from systolith.driver.machine import LinkMachine
from systolith.hw.config import PRESETS
from systolith.hw.isa import End, ErrorCode, Fill, Load, Queue, Store, encode, encode_descriptor
from systolith.hw.protocol import COUNTERS, WATCHDOG_DEFAULT
from systolith.layout import TensorDescriptor
from systolith.program import KnownAnswer, LayerInfo, Program, Stage
from systolith.sim.faults import Faults, FaultyTransport, PeerTransport
from systolith.sim.peer import Peer

CONFIG = PRESETS["tiny"].replace(memory_size=1 << 16)


class CountingCore:
    """A core whose runs last until it has been looked at `looks` times."""

    def __init__(self, looks=3, timestamps=70):
        self.looks = looks
        self.left = 0
        self.watchdog = WATCHDOG_DEFAULT
        self.outcome = (ErrorCode.NONE, Queue.LOAD, 0)
        self.counters = list(range(1, COUNTERS + 1))
        self.timestamps = [(100 * i, 90 * i) for i in range(timestamps)]
        self.starts = []
        self.cancels = 0

    @property
    def busy(self):
        self.left = max(0, self.left - 1)
        return self.left > 0

    def start(self, base):
        self.left = self.looks
        self.outcome = (ErrorCode.NONE, Queue.LOAD, 0)
        self.starts.append(base)

    def cancel(self):
        self.cancels += 1
        if self.left:
            self.left, self.outcome = 0, (ErrorCode.CANCELLED, Queue.LOAD, 0)


class PeerDevice:
    """A peer as a simulated device with a byte link (`transport.ByteDevice`)."""

    def __init__(self, peer):
        self.peer = peer
        self.out = bytearray()

    def link_write(self, data):
        self.out += self.peer.receive(data)

    def link_read(self, limit):
        data = bytes(self.out[:limit])
        del self.out[:limit]
        return data

    def step(self, cycles, *, until_bytes=0):
        return 0 if until_bytes and self.out else cycles


class Bed:
    """A peer with memory and core, and a machine linked to it over a line with faults."""

    def __init__(self, faults=None, *, seed=1, config=CONFIG, looks=3, latency=1e-3,
                 **options):
        self.config = config
        self.memory = bytearray(config.memory_size)
        self.core = CountingCore(looks)
        self.peer = Peer(config, self.memory, self.core, build=77)
        self.clock = PeerTransport(self.peer, latency=latency)
        self.line = FaultyTransport(self.clock, faults or Faults(), seed)
        self.machine = LinkMachine(Link(self.line, seed=seed, **options))


def copy_program(config=CONFIG, *, scale=0.5, wrong=False, tail=(), metadata=None, error=False,
                 slow=False):
    """A program that copies its input of 3 channels, 2x2 pixels, to its output; no arithmetic.

    `error` makes its LOAD one of an address outside of memory, `wrong` gives it a known answer
    that no device can give, `slow` lets it run for 60,000 cycles.
    """
    base, rows = 64, config.rows
    lists = {
        Queue.LOAD: [*([Fill(destination=16, rows=60_000, row_step=0)] if slow else []),
                     Load(source=(config.memory_size - 1 if error else 0x400),
                          chunk_bytes=4 * rows, destination=0), End()],
        Queue.ARRAY: [End()], Queue.VECTOR: [End()], Queue.POST: [End()],
        Queue.STORE: [Store(wait_load=1 + slow, source=0, row_bytes=4 * rows, destination=0x600,
                            mark=1), End()],
    }
    image, starts = bytearray(), []
    for queue in Queue:
        starts.append(base + len(image))
        image += b"".join(map(encode, lists[queue]))
    image = encode_descriptor(config.hash32, tuple(starts)) + bytes(image)
    here = {"shape": (3, 2, 2), "scale": scale, "zero_point": 3, "word_bytes": rows}
    values = np.arange(12, dtype=np.int8).reshape(3, 2, 2)
    return Program(
        config=config, image=image, memory_bytes=0x800,
        inputs=(TensorDescriptor(name="x", address=0x400, **here),),
        outputs=(TensorDescriptor(name="y", address=0x600, **here),),
        layers=(LayerInfo(name="copy", op="copy", macs=480),),
        stages=(Stage(first=0, last=1),), tail=tail,
        known_answer=KnownAnswer((values,), (values + np.int8(wrong),)),
        metadata=metadata or {})
