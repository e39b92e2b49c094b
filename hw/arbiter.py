"""One weight port for both engines: columns of the delta engine, kernels of the CNN engine."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import KERNEL_BURST, Parameters

from .memory import weight_port
from .numerics import request_layout
from .queue import Queue, burst_owner

IN_FLIGHT = 32
"""Bursts, at least, that may be asked for before the last word of the first one has been taken."""
KERNELS_AHEAD = KERNEL_BURST
"""Words of kernels that may be on their way when another burst of them is asked for."""


class WeightArbiter(wiring.Component):
    """Bursts of two engines on one weight port: those of `columns` first, each burst's words to whoever asked for it.

    Bursts come back in the order in which they were asked for, so kernels on their way hold up the columns behind
    them: a further burst of kernels is asked for only while at most KERNELS_AHEAD words are on their way, which
    hides a latency of 64 cycles (97 % of the words a cycle at 128) and delays a column by 2 · KERNEL_BURST words at
    most. Twice `queue_depth` bursts, and IN_FLIGHT at least, may be on their way.

    A request takes one cycle more than without the arbiter, a word none. Takes a burst of columns a cycle, one of
    kernels in two cycles, and gives a word a cycle, without gaps between bursts of any length. Only the ready of
    `port.data` depends on another ready of the same cycle. About 330 LUTs with a queue depth of 16 and 8 weights a
    word.

    Parameters
    ----------
    params : Parameters
        Of the weight port.

    Members
    -------
    columns, kernels : In(weight port)
        Bursts of kernels have at most KERNEL_BURST words.
    port : Out(weight port)
    kernels_idle : Out(1)
        No burst of kernels is asked for or on its way.
    """

    def __init__(self, params: Parameters):
        self.params = params
        port = weight_port(params)
        super().__init__({"columns": In(port), "kernels": In(port), "port": Out(port), "kernels_idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        owner_layout = data.StructLayout({"kernels": 1, "words": self.port.request.p.length.shape(), "single": 1})
        m.submodules.requests = requests = Queue(request_layout(self.params), 2)
        m.submodules.owners = owners = Queue(owner_layout, max(IN_FLIGHT, 2 * self.params.queue_depth))
        connect(m, requests.o, flipped(self.port.request))
        columns, kernels = self.columns.request, self.kernels.request
        free, takes_kernels = Signal(), Signal()
        room = self._count_kernels(m, takes_kernels)
        m.d.comb += [
            free.eq(requests.i.ready & owners.i.ready), takes_kernels.eq(kernels.valid & kernels.ready),
            columns.ready.eq(free), kernels.ready.eq(free & room & ~columns.valid),
            requests.i.payload.eq(Mux(columns.valid, columns.payload, kernels.payload)),
            requests.i.valid.eq((columns.valid & free) | takes_kernels),
            owners.i.valid.eq(requests.i.valid),
            owners.i.p.kernels.eq(~columns.valid), owners.i.p.words.eq(requests.i.p.length),
            owners.i.p.single.eq(Mux(columns.valid, columns.p.length == 1, kernels.p.length == 1)),
        ]
        self._answers(m, owners)
        return m

    def _count_kernels(self, m, takes):
        """Words of kernels on their way; returns whether more may be asked for."""
        words, room, answer = Signal(range(2 * KERNEL_BURST + 1)), Signal(), self.kernels.data
        m.d.sync += words.eq(words + Mux(takes, self.kernels.request.p.length, 0) - (answer.valid & answer.ready))
        m.d.sync += room.eq((words <= KERNELS_AHEAD) & ~takes)      # those just taken are counted a cycle later
        m.d.comb += self.kernels_idle.eq((words == 0) & ~self.kernels.request.valid)
        return room

    def _answers(self, m, owners):
        """Words to whom they belong. A burst's owner is known in the cycle behind its request, at the latest."""
        word, columns, kernels = self.port.data, self.columns.data, self.kernels.data
        taken = Signal()
        owner, known = burst_owner(m, owners, taken)
        m.d.comb += [
            columns.payload.eq(word.payload), columns.valid.eq(word.valid & known & ~owner.kernels),
            kernels.payload.eq(word.payload), kernels.valid.eq(word.valid & known & owner.kernels),
            word.ready.eq(known & Mux(owner.kernels, kernels.ready, columns.ready)),
            taken.eq(word.valid & word.ready),
        ]
