"""Block RAM whose readers and writers keep out of each other's way."""

from types import SimpleNamespace

from amaranth.hdl import Signal
from amaranth.lib import memory


def block_ram(shape, depth, style="block"):
    """A memory that synthesis puts into block RAM, without logic for reads and writes that meet.

    A word that is read in the very cycle in which it is written is undefined on an FPGA (in simulation it is
    the old one). Whoever uses the memory must see to it that such a word does not matter.
    With style "distributed" it goes into LUTs instead, for an FPGA that is short of block RAM.
    """
    return memory.Memory(shape=shape, depth=depth, init=[], attrs={"ram_style": style, "no_rw_check": 1})


def read_port(m, ram):
    """A read port: `data` is the word at `addr` a cycle later, or zero after `zero`; it stays while not `en`.

    An asynchronous port and a register, which Yosys makes part of the block RAM: on the synchronous ports that
    Amaranth writes it ignores `no_rw_check`, and adds comparators and bypasses.
    """
    port = ram.read_port(domain="comb")
    read = SimpleNamespace(addr=port.addr, en=Signal(init=1), zero=Signal(), data=Signal(ram.shape, reset_less=True))
    with m.If(read.zero):
        m.d.sync += read.data.eq(0)
    with m.Elif(read.en):
        m.d.sync += read.data.eq(port.data)
    return read
