"""Pooling of results as they come: maximum or mean of 2 × 2, of two in a row, or of the whole map."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.conv_layout import ConvParameters, Pool

from .conv_numerics import finished_layout, result_layout
from .numerics import saturate
from .ram import block_ram, read_port

MEAN_SHIFT = unsigned(5)
POOL_JOB = data.StructLayout({"mode": 2, "average": 1, "shift": MEAN_SHIFT})


class Pooling(wiring.Component):
    """Combines the chunks of a window and sends its result when the last one has come; or passes all through.

    Without pooling a chunk a cycle, latency 1; with it a chunk in 5 cycles. Partial results are kept in `pool_depth`
    words of L · 32 bits: a window's column and chunk, or the chunk alone for the whole map. Windows that
    a map's edge cuts off are left out.

    Members
    -------
    job : In(stream of POOL_JOB)
        Taken before the first chunk of each pass. Mean: rq(sum, shift, 16).
    finished : In(stream of finished_layout)
    result : Out(stream of result_layout)
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(POOL_JOB)), "finished": In(stream.Signature(finished_layout(params))),
            "result": Out(stream.Signature(result_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self.params.lanes
        m.submodules.memory = memory = block_ram(data.ArrayLayout(signed(32), lanes), self.params.pool_depth)
        read, write = read_port(m, memory), memory.write_port()
        job, item, free = Signal(POOL_JOB), Signal(finished_layout(self.params)), Signal()
        column, address = Signal(range(self.params.pool_depth)), Signal(range(self.params.pool_depth))
        old, new = Signal(data.ArrayLayout(signed(32), lanes)), Signal(data.ArrayLayout(signed(32), lanes))
        begins, completes = Signal(), Signal()      # the window, with this chunk
        m.d.comb += [free.eq(~self.result.valid | self.result.ready), read.addr.eq(address), write.addr.eq(address),
                     write.data.eq(new)]
        with m.If(self.result.ready):
            m.d.sync += self.result.valid.eq(0)
        for lane in range(lanes):
            value = item.chunk.values[lane]
            combined = Mux(job.average, old[lane] + value, Mux(old[lane] > value, old[lane], value))
            m.d.sync += new[lane].eq(Mux(begins, value, combined))

        with m.FSM():
            with m.State("JOB"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [job.eq(self.job.p), address.eq(0), column.eq(0)]
                with m.If(self.job.valid):
                    m.next = "TAKE"
            with m.State("TAKE"):
                passes = (job.mode == Pool.NONE) | self.finished.p.end
                m.d.comb += self.finished.ready.eq(~passes | free)
                m.d.sync += item.eq(self.finished.p)
                with m.If(self.finished.valid & passes & free):
                    m.d.sync += [self.result.valid.eq(1), self.result.p.end.eq(self.finished.p.end),
                                 self.result.p.chunk.eq(self.finished.p.chunk)]
                    with m.If(self.finished.p.end):
                        m.next = "JOB"
                with m.Elif(self.finished.valid & ~passes):
                    m.next = "READ"
            with m.State("READ"):
                window_y, window_x = item.y_odd | (job.mode == Pool.ROW), item.x_odd
                is_global = job.mode == Pool.GLOBAL
                upper = ~item.y_odd | (job.mode == Pool.ROW)
                m.d.sync += [begins.eq(Mux(is_global, item.first, upper & ~item.x_odd)),
                             completes.eq(Mux(is_global, item.final, window_y & window_x))]
                m.next = "KEEP"
            with m.State("KEEP"):
                m.d.sync += [old[lane].eq(read.data[lane]) for lane in range(lanes)]
                m.next = "COMBINE"
            with m.State("COMBINE"):
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += write.en.eq(1)
                with m.If(free | ~completes):
                    with m.If(completes):
                        m.d.sync += [self.result.valid.eq(1), self.result.p.end.eq(0),
                                     self.result.p.chunk.eq(item.chunk)]
                        m.d.sync += [self.result.p.chunk.values[lane].eq(self._rounded(job, new[lane]))
                                     for lane in range(lanes)]
                    self._advance(m, job, item, address, column)
                    m.next = "TAKE"
        return m

    @staticmethod
    def _rounded(job, value):
        """The maximum itself, or the mean."""
        return Mux(job.average, saturate((((value << 1) >> job.shift) + 1) >> 1, 16), value[:16].as_signed())

    @staticmethod
    def _advance(m, job, item, address, column):
        """The address of the next chunk: of the same position, or of the first chunk of the next one."""
        m.d.sync += address.eq(address + 1)
        with m.If(item.chunk.last):
            with m.If((job.mode == Pool.GLOBAL) | item.row_last):
                m.d.sync += [address.eq(0), column.eq(0)]
            with m.Elif(item.x_odd):
                m.d.sync += column.eq(address + 1)
            with m.Else():
                m.d.sync += address.eq(column)
