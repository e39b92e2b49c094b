"""Weight memories behind the weight port: block RAM, and an ideal memory for simulation."""

from types import SimpleNamespace

from amaranth.hdl import ClockSignal, Const, Instance, Module, Mux, Shape, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import Parameters

from .numerics import request_layout


def weight_port(params: Parameters):
    """The weight port, seen from the engine.

    Members
    -------
    request : Out(stream of {address, length})
        Bursts wanted, in words; length at least 1.
    data : In(stream of K weights)
        The words of the bursts, in order; lane k in bits 8·k to 8·k + 7.
    """
    return wiring.Signature({
        "request": Out(stream.Signature(request_layout(params))),
        "data": In(stream.Signature(unsigned(8 * params.pes))),
    })


def write_layout(params: Parameters):
    """A word of K weights for the memory behind the weight port; bursts asked for after it was taken see it."""
    return data.StructLayout({"address": unsigned(params.weight_address_bits), "data": unsigned(8 * params.pes)})


class WeightMemory(wiring.Component):
    """Weights in block RAM; with `max_latency` above one, an ideal memory for simulation.

    One word a cycle, bursts back to back without a gap. With `latency` = 1 the first word of a burst
    appears one cycle after its request was taken; in simulation it can be set up to `max_latency`, and a
    share of the cycles can be made to deliver nothing. A latency above one is at least three.

    Parameters
    ----------
    params : Parameters
    depth : int
        Words. Costs depth · K bytes of block RAM.
    max_latency : int
        Longest latency that can be set; 1 builds no delay line.
    writes : bool
        Whether there is `write`.

    Members
    -------
    port : the weight port
    write_address, write_data, write_enable : In
        Loads the memory, a word a cycle.
    write : In(stream of write_layout)
        Words of the engine, at most one a cycle: not while the memory is loaded.
    latency : In(range(1, max_latency + 1))
        Cycles from a request to its first word. Change only while no burst is in flight.
    stall : In(8)
        Probability in 1/256 that a cycle delivers nothing, and that one takes nothing.
    """

    def __init__(self, params: Parameters, depth: int, max_latency: int = 1, writes: bool = False):
        if depth < 1 or max_latency < 1:
            raise ValueError(f"depth and max_latency must be at least 1, not {depth!r} and {max_latency!r}")
        self.params, self.depth, self.max_latency, self.writes = params, depth, max_latency, writes
        super().__init__({
            "port": In(weight_port(params)),
            "write_address": In(range(depth)), "write_data": In(8 * params.pes), "write_enable": In(1),
            "latency": In(range(max_latency + 1), init=1), "stall": In(8),
            **({"write": In(stream.Signature(write_layout(params)))} if writes else {}),
        })

    def elaborate(self, platform):
        m = Module()
        stalled, stalled_write = self._stalled(m)
        read = self._ram(m, self._written(m, stalled_write))
        request, data_out = self._delayed_request(m), self.port.data
        address, left = Signal(range(self.depth)), Signal(12)
        m.d.comb += [
            # A burst's first word is read in the cycle its request arrives.
            request.ready.eq((left == 0) & read.en),
            read.en.eq((~data_out.valid | data_out.ready) & ~stalled),
            read.addr.eq(Mux(left == 0, request.p.address, address)),
            data_out.payload.eq(read.data),
        ]
        with m.If(read.en):
            m.d.sync += data_out.valid.eq((left != 0) | request.valid)
            with m.If(left != 0):
                m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
            with m.Elif(request.valid):
                m.d.sync += [address.eq(request.p.address + 1), left.eq(request.p.length - 1)]
        with m.Elif(data_out.ready):
            m.d.sync += data_out.valid.eq(0)
        return m

    def _written(self, m, stalled):
        """Enable, address and data of the words that are written, those that load the memory first."""
        write = SimpleNamespace(en=self.write_enable, addr=self.write_address, data=self.write_data)
        if not self.writes:
            return write
        m.d.comb += self.write.ready.eq(~(self.write_enable | stalled))
        return SimpleNamespace(en=write.en | (self.write.valid & self.write.ready),
                               addr=Mux(write.en, write.addr, self.write.p.address),
                               data=Mux(write.en, write.data, self.write.p.data))

    def _ram(self, m, written):
        """The words; returns a read port, data a cycle after the address."""
        if self.max_latency == 1:
            m.submodules.ram = ram = memory.Memory(shape=unsigned(8 * self.params.pes), depth=self.depth, init=[])
            write, read = ram.write_port(), ram.read_port()
            m.d.comb += [write.addr.eq(written.addr), write.data.eq(written.data), write.en.eq(written.en)]
            return read
        # Amaranth would write out the initial value of each of its millions of words.
        width = 8 * self.params.pes
        read = SimpleNamespace(addr=Signal(range(self.depth)), data=Signal(width), en=Signal())
        m.submodules.ram = Instance(
            "simulation_ram", p_WIDTH=width, p_DEPTH=self.depth, i_clk=ClockSignal(),
            i_w_en=written.en, i_w_addr=written.addr[:len(read.addr)], i_w_data=written.data,
            i_r_en=read.en, i_r_addr=read.addr, o_r_data=read.data)
        return read

    def _delayed_request(self, m):
        """The request stream, each request `latency` - 1 cycles late."""
        if self.max_latency == 1:
            return self.port.request
        late = stream.Signature(request_layout(self.params)).create()
        depth = 64
        stamped = data.StructLayout({"request": request_layout(self.params), "time": unsigned(16)})
        m.submodules.queue = queue = SyncFIFOBuffered(width=Shape.cast(stamped).width, depth=depth)
        pushed, head, now = Signal(stamped), Signal(stamped), Signal(16)
        m.d.sync += now.eq(now + 1)
        m.d.comb += [pushed.request.eq(self.port.request.p), pushed.time.eq(now),
                     queue.w_data.eq(pushed), head.eq(queue.r_data)]
        with m.If(self.latency <= 1):
            m.d.comb += [late.payload.eq(self.port.request.p), late.valid.eq(self.port.request.valid),
                         self.port.request.ready.eq(late.ready)]
        with m.Else():
            age = Signal(16)
            m.d.comb += [
                queue.w_en.eq(self.port.request.valid), self.port.request.ready.eq(queue.w_rdy),
                age.eq(now - head.time),
                late.payload.eq(head.request), late.valid.eq(queue.r_rdy & (age + 1 >= self.latency)),
                queue.r_en.eq(late.ready & late.valid),
            ]
        return late

    def _stalled(self, m):
        """For reads and for writes, true in a share of `stall` / 256 of the cycles (16-bit Galois LFSR)."""
        if self.max_latency == 1:
            return Const(0), Const(0)
        lfsr = Signal(16, init=0xACE1)
        m.d.sync += lfsr.eq(Mux(lfsr[0], (lfsr >> 1) ^ 0xB400, lfsr >> 1))
        return lfsr[:8] < self.stall, lfsr[8:] < self.stall
