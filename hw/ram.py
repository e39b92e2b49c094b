"""Block RAM whose readers and writers keep out of each other's way."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Signal
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


BLOCK_BITS = 16384


def deep_ram(m, name, bits, depth):
    """A write port and a read port as above of a block RAM that is as many bits wide as its depth leaves a block.

    Left to itself, synthesis stacks two wider blocks, with a multiplexer behind their slow outputs.
    """
    width = max(BLOCK_BITS // depth, 1)
    write = SimpleNamespace(addr=Signal(range(depth)), en=Signal(), data=Signal(bits))
    read = SimpleNamespace(addr=Signal(range(depth)), data=Signal(bits))
    words = []
    for start in range(0, bits, width):
        part = write.data[start:start + width]
        m.submodules[f"{name}{start}"] = ram = block_ram(len(part), depth)
        part_write, part_read = ram.write_port(), read_port(m, ram)
        m.d.comb += [part_write.addr.eq(write.addr), part_write.en.eq(write.en), part_write.data.eq(part),
                     part_read.addr.eq(read.addr)]
        words.append(part_read.data)
    m.d.comb += read.data.eq(Cat(words))
    return write, read
