"""Runs the passes of a program on the CNN engine, in order, again each step."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.conv_layout import PASS_FIELDS, PASSES

from .ram import block_ram, read_port

PASS_PAIRS = len(PASS_FIELDS) // 2
PASS = data.StructLayout({name: unsigned(16) for name in PASS_FIELDS})
CONTROL = data.StructLayout({
    "input": 1, "depthwise": 1, "stride_y": 1, "stride_x": 1, "q_shift": unsigned(2), "function": unsigned(2),
    "first": 1, "dense": 1, "average": 1, "pool": unsigned(2),
})
"""The field `control` of a pass descriptor; strides are less one."""
UNITS = ("kernels", "decoder", "scatter", "finisher")


class ConvSequencer(wiring.Component):
    """Reads the descriptors of passes one after the other and offers each to the four units that work on it.

    A pass goes to the kernel buffer as soon as its descriptor is read, so that its kernels load while the pass
    before computes; to the others when the pass before was taken by all of them and, if it is the first of its
    layer, when nothing of the layers before is under way (`drained`) and the input, if it reads that, is there.
    17 cycles to read a descriptor, during which the pass before is at work.

    Members
    -------
    write_enable, write_address, write_data : In
        The host's port: 32 bits, two fields; address is 16 · pass + pair.
    count : In
        Passes a step; 0 runs nothing.
    run : In(1)
        While low, no pass is started that has not been offered yet. A ResetInserter around the component starts a
        sequence.
    job : Out(PASS), step : Out(1)
        The pass that is offered, and the parity of its step.
    valid_*, ready_* : to and from each of UNITS
    drained : In(1)
        All passes that the finisher has taken are completely written.
    input_done : In(2), input_read : Out(2)
        Last step, modulo 4, whose input map is complete, and whose input map will not be read again.
    idle : Out(1)
        Everything is drained, and nothing will be done without an input, `run` or passes.
    """

    def __init__(self):
        super().__init__({
            "write_enable": In(1), "write_address": In(range(PASSES * PASS_PAIRS)), "write_data": In(32),
            "count": In(range(PASSES + 1)), "run": In(1),
            "job": Out(PASS), "step": Out(1), "drained": In(1),
            "input_done": In(2, init=3), "input_read": Out(2, init=3), "idle": Out(1),
            **{f"valid_{unit}": Out(1) for unit in UNITS}, **{f"ready_{unit}": In(1) for unit in UNITS},
        })

    def elaborate(self, platform):
        m = Module()
        number, step = Signal(range(PASSES)), Signal(2)
        loads, loaded = Signal(), Signal()
        self._load(m, number, loads, loaded)
        control = data.View(CONTROL, self.job.control[:13])
        pending = {unit: Signal(name=f"pending_{unit}") for unit in UNITS}
        starts, may_start, input_there, reads_input = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.step.eq(step[0]),
            # At most one step ahead, and at most two behind: `done` counts modulo 4.
            input_there.eq((self.input_done - step)[:2] < 2),
            may_start.eq((~control.first | self.drained) & (~control.input | input_there)),
        ]
        all_taken = ~pending["kernels"]
        for unit in UNITS:
            valid, ready = getattr(self, f"valid_{unit}"), getattr(self, f"ready_{unit}")
            m.d.comb += valid.eq(pending[unit] & (starts if unit != "kernels" else 1))
            with m.If(valid & ready):
                m.d.sync += pending[unit].eq(0)
            if unit != "kernels":
                all_taken &= ~pending[unit]
        with m.FSM():
            with m.State("NEXT"):
                m.d.comb += self.idle.eq(self.drained & ~(self.run & (self.count != 0)))
                with m.If(self.run & (self.count != 0)):
                    m.d.comb += loads.eq(1)
                    m.next = "LOAD"
            with m.State("LOAD"):
                with m.If(loaded):
                    m.d.sync += [signal.eq(1) for signal in pending.values()]
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += self.idle.eq(self.drained & ~(self.run & may_start))
                with m.If(may_start & self.run):
                    m.d.sync += reads_input.eq(control.input)
                    with m.If(reads_input & control.first & (number != 0)):
                        m.d.sync += self.input_read.eq(step)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += starts.eq(1)
                with m.If(all_taken):
                    with m.If(number + 1 == self.count):
                        m.next = "STEP"
                    with m.Else():
                        m.d.sync += number.eq(number + 1)
                        m.next = "NEXT"
            with m.State("STEP"):
                # The input may be overwritten when the last pass that reads it is through; results follow soon.
                with m.If(~reads_input | self.drained):
                    with m.If(reads_input):
                        m.d.sync += self.input_read.eq(step)
                    m.d.sync += [number.eq(0), step.eq(step + 1), reads_input.eq(0)]
                    m.next = "NEXT"
        return m

    def _load(self, m, number, loads, loaded):
        """Reads the pairs of fields of pass `number` into `job`, one a cycle."""
        m.submodules.table = table = block_ram(unsigned(32), PASSES * PASS_PAIRS)
        write, read = table.write_port(), read_port(m, table)
        pair, reading, arrives = Signal(range(PASS_PAIRS)), Signal(), Signal()
        m.d.comb += [
            write.addr.eq(self.write_address), write.data.eq(self.write_data), write.en.eq(self.write_enable),
            read.addr.eq(number * PASS_PAIRS + pair),
        ]
        m.d.sync += [arrives.eq(reading), loaded.eq(arrives & ~reading)]
        with m.If(loads):
            m.d.sync += [reading.eq(1), pair.eq(0)]
        with m.Elif(reading):
            m.d.sync += [pair.eq(pair + 1), reading.eq(pair != PASS_PAIRS - 1)]
        with m.If(arrives):     # moves all pairs down: the fields are wherever they are needed
            m.d.sync += self.job.eq(Cat(self.job.as_value()[32:], read.data))
