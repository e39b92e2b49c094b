"""The chip model by itself: it allows the fastest legal commands, names each broken rule, and poisons the rest.

A model keeps its first violation for ever, so each rule has a simulation of its own.
"""

import cocotb
import pytest
from sdram_benches import BARE, run_bench
from streams import Ports, bench_test

from amacrine.hw.sdram_chips import sampling, timings
from amacrine.sim.sdram import POISON, VIOLATIONS

COMMANDS = {"nop": 0b111, "activate": 0b011, "read": 0b101, "write": 0b100, "precharge": 0b010, "refresh": 0b001,
            "mode": 0b000, "terminate": 0b110}     # RAS, CAS, WE, low when active
T = timings(BARE, 100e6)
ALL, AUTO = 1 << 10, 1 << 10    # A10
INTERVAL = 781
STAGES = sampling(BARE, 100e6).capture - T.cas      # edges from the chip's last edge to the FPGA's


class Chip(Ports):
    """Its pins, by commands; each takes one cycle."""

    async def do(self, command, bank=0, address=0, data=None, dqm=0, **pins):
        bits = COMMANDS[command]
        self.set(pins__cs_n=0, pins__ras_n=bits >> 2, pins__cas_n=bits >> 1 & 1, pins__we_n=bits & 1, pins__bank=bank,
                 pins__address=address, pins__dq_oe=data is not None, pins__dq_o=data or 0, pins__dqm=dqm, **pins)
        await self.cycles()
        self.set(pins__cs_n=1, pins__dq_oe=0, pins__dqm=0)

    async def gap(self, cycles):
        """So that the next command comes `cycles` after the one before."""
        await self.cycles(cycles - 1)

    async def word(self, cas=T.cas, edges=STAGES):
        """What the FPGA's input register takes of the READ that was the last command."""
        await self.cycles(cas + edges - 2)
        return int(self.pins__dq_i.value)

    async def initialise(self, mode=T.cas << 4):
        await self.do("precharge", address=ALL)
        await self.gap(T.rp)
        for _ in range(8):
            await self.do("refresh")
            await self.gap(T.rfc)
        await self.do("mode", address=mode)
        await self.gap(T.mrd)

    async def refresh_all(self):
        for _ in range(1 << BARE.row_bits):
            await self.do("refresh")
            await self.gap(T.rfc)


async def chip(dut, initialised=True):
    part, when = Chip(dut, "bare"), sampling(BARE, 100e6)
    part.set(phase_ps=when.phase_ps, loop_ps=9_500, pins__cke=1, pins__cs_n=1, pins__dqm=0, pins__dq_oe=0)
    await part.begin()
    await part.wait(T.power_up + 1)
    if initialised:
        await part.initialise()
    return part


async def rcd(part):
    await part.do("activate")
    await part.gap(T.rcd - 1)
    await part.do("read")


async def rp(part):
    await part.do("activate")
    await part.gap(20)
    await part.do("precharge")
    await part.gap(T.rp - 1)
    await part.do("activate")


async def ras(part):
    await part.do("activate")
    await part.gap(T.ras - 1)
    await part.do("precharge")


async def ras_by_auto_precharge(part):
    await part.do("activate")
    await part.gap(T.ras - 2)
    await part.do("read", address=AUTO)


async def rfc(part):
    await part.do("refresh")
    await part.gap(T.rfc - 1)
    await part.do("activate")


async def rrd(part):
    await part.do("activate")
    await part.gap(T.rrd - 1)
    await part.do("activate", bank=1)


async def wr(part):
    await part.do("activate")
    await part.gap(20)
    await part.do("write", data=1)
    await part.gap(T.wr - 1)
    await part.do("precharge")


async def wr_by_auto_precharge(part):
    await part.do("activate")
    await part.gap(20)
    await part.do("write", address=AUTO, data=1)
    await part.gap(T.wr + T.rp - 1)
    await part.do("activate")


async def mrd(part):
    await part.do("mode", address=T.cas << 4)
    await part.gap(T.mrd - 1)
    await part.do("activate")


async def interval(part):
    await part.wait(9 * INTERVAL + 20)


async def not_open(part):
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("read", bank=1)


async def already_open(part):
    await part.do("activate")
    await part.gap(20)
    await part.do("activate", address=1)


async def refresh_while_open(part):
    await part.do("activate")
    await part.gap(20)
    await part.do("refresh")


async def wrong_cas_latency(part):
    await part.do("mode", address=1 << 4)


async def wrong_burst_length(part):
    await part.do("mode", address=T.cas << 4 | 1)


async def contention(part):
    """The cycle after the last word that was read."""
    await part.do("activate")
    await part.gap(20)
    await part.do("read")
    await part.gap(T.cas + 1)
    await part.do("write", data=1)


async def open_for_too_long(part):
    await part.do("activate")
    await part.wait(3001)
    await part.do("precharge")


async def no_data(part):
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("write")


async def masked_read(part):
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("read", dqm=1)


async def early_clock(part):
    part.set(phase_ps=1_400)
    await part.do("activate")


async def late_clock(part):
    part.set(phase_ps=9_300)
    await part.do("activate")


async def burst_termination(part):
    await part.do("terminate")


async def clock_disabled(part):
    await part.do("activate", pins__cke=0)


RULES = {
    rcd: 1, rp: 2, ras: 3, ras_by_auto_precharge: 3, rfc: 5, rrd: 6, wr: 7, wr_by_auto_precharge: 7, mrd: 8,
    interval: 9, not_open: 10, already_open: 11, refresh_while_open: 12, wrong_cas_latency: 14, wrong_burst_length: 14,
    contention: 15, open_for_too_long: 16, no_data: 17, masked_read: 18, early_clock: 19, late_clock: 19,
    burst_termination: 20, clock_disabled: 20}


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_rule(tmp_path, rule):
    run_bench(__name__, tmp_path, only="broken$", plusargs=[f"+rule={rule}"])


@pytest.mark.parametrize("test", ["fastest_legal_commands", "before_initialisation", "too_early", "sampling_edge",
                                  "missed_refresh", "kept_rows", "masked_writes"])
def test_chip(tmp_path, test):
    run_bench(__name__, tmp_path, only=f"{test}$")


@bench_test
async def broken(dut):
    """Only the rule that `test_rule` asks for."""
    part = await chip(dut)
    assert part.violation.value == 0
    (rule, code), = ((rule, code) for rule, code in RULES.items() if rule.__name__ == cocotb.plusargs["rule"])
    await rule(part)
    await part.cycles(2)
    assert part.violation.value == code, VIOLATIONS.get(int(part.violation.value))


@bench_test
async def fastest_legal_commands(dut):
    """Each rule at its limit, and what was written is read."""
    part = await chip(dut)
    for bank in (0, 1):
        await part.do("activate", bank)
        await part.gap(T.rrd)
    await part.do("write", 0, address=5, data=111)
    await part.do("write", 1, address=6, data=222)
    await part.do("read", 0, address=5)
    assert await part.word() == 111
    await part.do("read", 1, address=6)
    await part.gap(T.cas + 2)
    await part.do("write", 1, address=AUTO | 6, data=333)
    await part.gap(T.wr + T.rp)
    await part.do("activate", 1)
    await part.gap(max(T.rcd, T.ras - 1))
    await part.do("read", 1, address=AUTO | 6)
    assert await part.word() == 333
    await part.do("precharge", 0)
    await part.gap(T.rp)
    await part.do("refresh")
    await part.gap(T.rfc)
    await part.do("activate", 0)
    await part.gap(T.rcd)
    await part.do("read", 0, address=5)
    assert await part.word() == 111
    assert part.violation.value == 0 and part.poisoned.value == 0
    await part.do("read", 0, address=7)
    assert await part.word() == POISON          # never written
    assert part.violation.value == 0 and part.poisoned.value == 1


@bench_test
async def before_initialisation(dut):
    """Poison, whatever was written before; and the code."""
    part = await chip(dut, initialised=False)
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("write", address=5, data=1)
    await part.do("read", address=5)
    assert await part.word() == POISON
    assert part.violation.value == 13


@bench_test
async def too_early(dut):
    """Commands in the chip's power-up time."""
    part = Chip(dut, "bare")
    part.set(phase_ps=5_000, loop_ps=9_500, pins__cke=1, pins__cs_n=1, pins__dqm=0, pins__dq_oe=0)
    await part.begin()
    await part.initialise()
    assert part.violation.value == 13


@bench_test
async def sampling_edge(dut):
    """Data come at the edge that `sampling` says; while they change, they are poison; before and after, too."""
    part = await chip(dut)
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("write", address=5, data=111)
    await part.gap(2)
    changing = BARE.cas[0].access_ps - BARE.hold
    for phase, loop in ((2_500, 5_000), (2_500, 7_500), (2_500, 7_501), (2_500, 10_799), (2_500, 10_800),
                        (5_000, 8_750), (7_500, 12_500), (7_500, 16_000), (5_000, 20_000)):
        part.set(phase_ps=phase, loop_ps=loop)
        await part.cycles(4)
        edges, rest = -(-(phase + loop) // 10_000), (phase + loop) % 10_000
        stable = rest == 0 or rest >= changing
        await part.do("read", address=5)
        seen = []
        for _ in range(8):
            await part.cycles()
            seen.append(int(part.pins__dq_i.value))
        wanted = [POISON] * 8
        wanted[T.cas + edges - 3] = 111 if stable else POISON
        assert seen == wanted, (phase, loop)
    assert part.violation.value == 0


@bench_test
async def missed_refresh(dut):
    """After the retention time without refresh a row is lost, for ever, but for what is written again."""
    part = await chip(dut)
    await part.do("activate", address=9)
    await part.gap(T.rcd)
    for column in (5, 6):
        await part.do("write", address=column, data=111)
    await part.gap(20)
    await part.do("precharge", address=ALL)
    await part.wait(BARE.retention // 10_000 + 10)
    await part.do("activate", address=9)
    await part.gap(T.rcd)
    await part.do("write", address=6, data=222)
    for column, expected in ((5, POISON), (6, 222)):
        await part.do("read", address=column)
        assert await part.word() == expected
    assert part.violation.value == 9


@bench_test
async def kept_rows(dut):
    """Refreshes in a row are enough, if they come within the retention time."""
    part = await chip(dut)
    await part.do("activate", address=9)
    await part.gap(T.rcd)
    await part.do("write", address=5, data=111)
    await part.gap(20)
    await part.do("precharge", address=ALL)
    for _ in range(2):
        await part.wait(BARE.retention // 10_000 - 1500)
        await part.refresh_all()
    await part.do("activate", address=9)
    await part.gap(T.rcd)
    await part.do("read", address=5)
    assert await part.word() == 111


@bench_test
async def masked_writes(dut):
    """DQM keeps a byte."""
    part = await chip(dut)
    await part.do("activate")
    await part.gap(T.rcd)
    await part.do("write", address=5, data=0x1234)
    await part.do("write", address=5, data=0xABCD, dqm=1)
    await part.do("read", address=5)
    assert await part.word() == 0xAB34
    assert part.violation.value == 0
