"""Feature memory: both planes keep what was written, results go first, and a map word that was read stays."""

from cocotb.triggers import RisingEdge
from feature_benches import MEMORY, run_bench
from streams import Codec, Ports, bench_test, generators, signed

from amacrine.hw.conv_numerics import map_write_layout, value_write_layout

PLANES = {"map": (MEMORY.map_depth, Codec(map_write_layout(MEMORY))),
          "value": (MEMORY.value_depth, Codec(value_write_layout(MEMORY)))}


def test_features(tmp_path):
    run_bench(__name__, tmp_path)


class Plane:
    """One plane and what it must hold; a cycle at a time."""

    def __init__(self, memory, name, rng):
        self.memory, self.name, self.rng = memory, name, rng
        self.depth, self.codec = PLANES[name]
        self.content, self.shown, self.coming, self.offered = {}, None, None, None

    def port(self, name):
        return getattr(self.memory, f"{self.name}_{name}")

    def write(self):
        """One or, of values, two random words as a payload, and what they are by address."""
        address = self.rng.randrange(self.depth)
        if self.name == "map":
            bits = self.rng.getrandbits(16)
            return {address: bits}, self.codec.pack(address=address, bits=bits)
        value, next_value = (signed(self.rng.getrandbits(16), 16) for _ in range(2))
        two = self.rng.random() < 0.5 and address + 1 < self.depth
        payload = self.codec.pack(address=address, value=value, next_value=next_value, two=two)
        return {address: value} | ({address + 1: next_value} if two else {}), payload

    def drive(self):
        """The input keeps to its offer until it is taken; a word that is written is not read."""
        rng, name = self.rng, self.name
        self.result = self.write() if rng.random() < 0.5 else None
        if self.offered is None and rng.random() < 0.5:
            self.offered = self.write()
        for writer, write in (("result", self.result), ("input", self.offered)):
            self.memory.set(**{f"{writer}_{name}__valid": write is not None,
                               f"{writer}_{name}__payload": (write or self.write())[1]})
        writes = self.result or self.offered
        address, enable = rng.randrange(self.depth), rng.random() < 0.6
        if writes and address in writes[0]:
            enable = False
        self.memory.set(**{f"{name}_address": address, f"{name}_enable": enable})
        self.read = address if enable else None

    def check(self):
        ready = getattr(self.memory, f"input_{self.name}__ready").value
        assert getattr(self.memory, f"result_{self.name}__ready").value == 1
        assert ready == (self.result is None)
        data = int(self.port("data").value)
        if self.shown is not None:
            assert data == self.shown & 0xFFFF
        word = None if self.read is None else self.content.get(self.read, 0)
        if self.name == "value":        # a cycle later, and only then
            self.shown, self.coming = self.coming, word
        elif word is not None:
            self.shown = word
        if self.result:
            self.content |= self.result[0]
        elif self.offered:
            self.content |= self.offered[0]
            self.offered = None


@bench_test
async def both_planes(dut):
    memory = Ports(dut, "memory")
    rng, _ = generators("features")
    await memory.begin(*(f"{writer}_{plane}__valid" for writer in ("result", "input") for plane in PLANES))
    planes = [Plane(memory, name, rng) for name in PLANES]
    for _ in range(4000):
        for plane in planes:
            plane.drive()
        await RisingEdge(memory.clk)
        for plane in planes:
            plane.check()
    assert all(len(plane.content) == plane.depth for plane in planes)


