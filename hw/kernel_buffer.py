"""Kernels and biases of the CNN engine's passes, loaded ahead from weight memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import KERNEL_BURST, Parameters

from .memory import weight_port
from .queue import Queue
from .ram import block_ram, deep_ram, read_port

BIAS_SLOTS = 4
PASSES_AHEAD = 4


def kernel_job_layout(params: ConvParameters, weight_params: Parameters, max_blocks: int):
    """A pass: first word in weight memory, and words of P bytes: 4 · blocks of biases, then kernels."""
    return data.StructLayout({
        "weights": unsigned(weight_params.weight_address_bits),
        "kernel_words": range(params.kernel_depth + 1), "bias_words": range(4 * max_blocks + 1),
    })


def load_layout(params: ConvParameters, max_blocks: int):
    """Words of a pass that have been, or are being, asked for."""
    return data.StructLayout({
        "kernel_words": range(params.kernel_depth + 1), "bias_words": range(4 * max_blocks + 1),
        "slot": range(BIAS_SLOTS),
    })


class KernelRequests(wiring.Component):
    """Asks for the words of one pass after the other, as far as there is room for them.

    Bursts of up to KERNEL_BURST port words, one in three cycles at most.

    Members
    -------
    job : In(stream of kernel_job_layout)
    request : Out(stream of {address, length})
    load : Out(stream of load_layout)
        Each pass, before its first burst.
    release : In(1), released : In
        So many kernel words are free again.
    bias_release : In(1)
        The oldest bias slot is free again.
    stop : In(1)
        Asks for no further burst; one that is offered already stays offered.
    """

    def __init__(self, params: ConvParameters, weight_params: Parameters, max_blocks: int):
        self.params, self.weight_params, self.max_blocks = params, weight_params, max_blocks
        self.ratio_bits = ceil_log2(params.macs // weight_params.pes)
        self.most = KERNEL_BURST >> self.ratio_bits
        super().__init__({
            "job": In(stream.Signature(kernel_job_layout(params, weight_params, max_blocks))),
            "request": weight_port(weight_params).members["request"],
            "load": Out(stream.Signature(load_layout(params, max_blocks))),
            "release": In(1), "released": In(range(params.kernel_depth + 1)), "bias_release": In(1),
            "stop": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        address = Signal(self.weight_params.weight_address_bits)
        bias, kernel = Signal.like(self.load.p.bias_words), Signal.like(self.load.p.kernel_words)     # still to ask for
        words, is_bias = Signal(range(self.most + 1)), Signal()                                       # asked for next
        taken, room, slot_free = Signal.like(words), Signal(), Signal()
        self._count(m, taken, words, room, slot_free)
        m.d.comb += [
            self.load.p.bias_words.eq(bias), self.load.p.kernel_words.eq(kernel),
            self.request.p.address.eq(address), self.request.p.length.eq(words << self.ratio_bits),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(slot_free)
                m.d.sync += [address.eq(self.job.p.weights), bias.eq(self.job.p.bias_words),
                             kernel.eq(self.job.p.kernel_words)]
                with m.If(self.job.valid & slot_free):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.load.valid.eq(1)
                with m.If(self.load.ready):
                    m.d.sync += self.load.p.slot.eq(self.load.p.slot + 1)
                    m.next = "PLAN"
            with m.State("PLAN"):
                wanted = Mux(bias != 0, bias, kernel)
                m.d.sync += [is_bias.eq(bias != 0), words.eq(Mux(wanted > self.most, self.most, wanted))]
                m.next = "ROOM"
                with m.If((bias == 0) & (kernel == 0)):
                    m.next = "IDLE"
            with m.State("ROOM"):
                with m.If((is_bias | room) & ~self.stop):
                    m.d.comb += taken.eq(Mux(is_bias, 0, words))
                    with m.If(is_bias):
                        m.d.sync += bias.eq(bias - words)
                    with m.Else():
                        m.d.sync += kernel.eq(kernel - words)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.d.sync += address.eq(address + self.request.p.length)
                    m.next = "PLAN"
        return m

    def _count(self, m, taken, words, room, slot_free):
        """Room in the ring, less what has been asked for, and free bias slots."""
        free = Signal(range(self.params.kernel_depth + 1), init=self.params.kernel_depth)
        slots, job_taken = Signal(range(BIAS_SLOTS + 1), init=BIAS_SLOTS), Signal()
        m.d.comb += [
            room.eq(free >= words), slot_free.eq(slots != 0), job_taken.eq(self.job.valid & self.job.ready),
        ]
        released = Signal.like(self.released)
        m.d.sync += [released.eq(Mux(self.release, self.released, 0)), free.eq(free - taken + released)]
        with m.If(job_taken & ~self.bias_release):
            m.d.sync += slots.eq(slots - 1)
        with m.If(~job_taken & self.bias_release):
            m.d.sync += slots.eq(slots + 1)


class KernelBuffer(wiring.Component):
    """A ring of kernel words and a few slots of biases; holds the pass at work, and loads those behind it.

    Passes are loaded one after the other, as far ahead as there is room: kernels in the ring, a bias slot of
    4, and PASSES_AHEAD of them. Takes a port word a cycle, and loses three cycles between two passes.

    Parameters
    ----------
    params : ConvParameters
        `kernel_depth` words of P bytes of block RAM.
    weight_params : Parameters
        Of the weight port, whose K divides P: P / K port words make a word, the first in the low lanes.
    max_blocks : int
        Most blocks of a pass; 16 words of P bytes of block RAM each for biases, rounded up to a power of two.

    Members
    -------
    job : In(stream of kernel_job_layout)
    port : the weight port; asks for no more than it has room for, so always takes the data at once
    stop : In(1)
        Asks for no further burst (one that is offered stays offered); takes those that it has asked for.
    ready : Out(1)
        The kernels and biases of the oldest pass are complete.
    base : Out
        Where its kernels begin.
    release : In(1)
        Its kernels have been used; `ready` and `base` are those of the next pass a cycle later.
    bias_release : In(1)
        The biases read now have been used; the next pass's come. Biases are read from complete passes only.
    kernel_address : In, kernel_data : Out(P bytes), bias_address : In, bias_data : Out(P bytes)
        Read ports, data a cycle after the address. The bias address is relative to the pass's first word.
    """

    def __init__(self, params: ConvParameters, weight_params: Parameters, max_blocks: int = 16):
        ratio = params.macs // weight_params.pes
        if ratio * weight_params.pes != params.macs or ratio & (ratio - 1) or not 1 <= ratio <= KERNEL_BURST:
            raise ValueError(f"pes must be macs divided by a power of two up to {KERNEL_BURST}, not "
                             f"{weight_params.pes!r} for {params.macs!r} macs")
        self.params, self.weight_params, self.max_blocks, self.ratio = params, weight_params, max_blocks, ratio
        self.bias_bits = ceil_log2(4 * max_blocks)
        port = weight_port(weight_params)
        super().__init__({
            "job": In(stream.Signature(kernel_job_layout(params, weight_params, max_blocks))), "port": Out(port),
            "stop": In(1),
            "ready": Out(1), "base": Out(range(params.kernel_depth)), "release": In(1), "bias_release": In(1),
            "kernel_address": In(range(params.kernel_depth)), "kernel_data": Out(8 * params.macs),
            "bias_address": In(self.bias_bits), "bias_data": Out(8 * params.macs),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests = requests = KernelRequests(self.params, self.weight_params, self.max_blocks)
        m.submodules.loads = loads = Queue(load_layout(self.params, self.max_blocks), PASSES_AHEAD)
        m.submodules.loaded = loaded = Queue(range(self.params.kernel_depth + 1), BIAS_SLOTS)
        connect(m, flipped(self.job), requests.job)
        connect(m, requests.request, flipped(self.port.request))
        connect(m, requests.load, loads.i)
        # Each loaded pass has a bias slot, or had one when it was loaded; `loaded` is never asked to hold more.
        m.d.comb += [
            self.ready.eq(loaded.o.valid), loaded.o.ready.eq(self.release),
            requests.release.eq(self.release), requests.released.eq(loaded.o.payload),
            requests.bias_release.eq(self.bias_release), requests.stop.eq(self.stop),
        ]
        with m.If(self.release):
            m.d.sync += self.base.eq(self.base + loaded.o.payload)

        self._receive(m, loads.o, loaded.i)
        return m

    def _receive(self, m, load, loaded):
        """Counts the words of the pass that comes in, and sends them to the memories a cycle later."""
        active, left, bias_left = Signal(), Signal(range(self.params.kernel_depth + 4 * self.max_blocks + 1)), \
            Signal.like(load.p.bias_words)
        last, part, ends, data_in = Signal(), Signal(range(max(self.ratio, 2))), Signal(), self.port.data
        taken, counted = Signal(), Signal()     # a pass was taken: its words are added up, then it may begin
        m.d.comb += [
            data_in.ready.eq(active), load.ready.eq(~(active | taken | counted)),
            ends.eq(data_in.valid & active & (part == self.ratio - 1)),
        ]
        word, whole, to_bias, done = Signal(8 * self.params.macs), Signal(), Signal(), Signal()
        m.d.sync += [whole.eq(ends), to_bias.eq(bias_left != 0), done.eq(ends & last), loaded.valid.eq(done)]
        with m.If(data_in.valid & active):
            m.d.sync += [part.eq(Mux(ends, 0, part + 1)), word.eq(Cat(word, data_in.payload)[-len(word):])]
        with m.If(ends):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2), active.eq(~last)]
            with m.If(bias_left != 0):
                m.d.sync += bias_left.eq(bias_left - 1)

        kernel_words, slot, bias_at = Signal.like(load.p.kernel_words), Signal.like(load.p.slot), Signal(self.bias_bits)
        m.d.sync += [taken.eq(load.valid & load.ready), counted.eq(taken)]
        with m.If(load.valid & load.ready):
            m.d.sync += [bias_left.eq(load.p.bias_words), kernel_words.eq(load.p.kernel_words), slot.eq(load.p.slot),
                         bias_at.eq(0)]
        with m.If(taken):
            m.d.sync += left.eq(bias_left + kernel_words)
        with m.If(counted):
            m.d.sync += [last.eq(left == 1), active.eq(1)]
        with m.If(whole & to_bias):
            m.d.sync += bias_at.eq(bias_at + 1)
        # `done` comes with the write of the last word, `loaded` a cycle later.
        m.d.sync += loaded.payload.eq(kernel_words)
        self._memories(m, word, whole & ~to_bias, whole & to_bias, Cat(bias_at, slot))

    def _memories(self, m, word, write_kernel, write_bias, bias_at):
        """The ring and the bias slots."""
        m.submodules.biases = biases = block_ram(unsigned(8 * self.params.macs), BIAS_SLOTS << self.bias_bits)
        write, read = deep_ram(m, "kernels", 8 * self.params.macs, self.params.kernel_depth)
        m.d.comb += [
            write.data.eq(word), write.en.eq(write_kernel),
            read.addr.eq(self.kernel_address), self.kernel_data.eq(read.data),
        ]
        m.d.sync += write.addr.eq(write.addr + write_kernel)
        write, read, slot = biases.write_port(), read_port(m, biases), Signal(range(BIAS_SLOTS))
        m.d.sync += slot.eq(slot + self.bias_release)
        m.d.comb += [
            write.data.eq(word), write.en.eq(write_bias), write.addr.eq(bias_at),
            read.addr.eq(Cat(self.bias_address, slot)), self.bias_data.eq(read.data),
        ]
