"""What the link needs behind it: the memory, and the engine's registers."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .engine import REGISTER_BITS

BURST = 512
"""Longest burst of the memory port."""


def memory_request_layout(address_bits):
    """A burst of the memory port: `length` words of 16 bits from word `address` on."""
    return data.StructLayout({"address": address_bits, "length": range(BURST + 1), "write": 1})


def memory_port(address_bits):
    """Memory, seen from the link: words of 16 bits, in the order of the requests.

    Members
    -------
    request : Out(stream of {address, length, write})
        Bursts of 1 to BURST words. A later burst sees what an earlier one wrote.
    write_data : Out(stream of 16 bits)
        The words of bursts that write. They come a few cycles apart, never before their burst's request.
    read_data : In(stream of 16 bits)
        The words of bursts that read. `ready` is 1 from the request to the last word.
    initialised : In(1)
        The memory can be used.
    """
    return wiring.Signature({
        "request": Out(stream.Signature(memory_request_layout(address_bits))),
        "write_data": Out(stream.Signature(16)), "read_data": In(stream.Signature(16)), "initialised": In(1),
    })


def register_bus():
    """The engine's registers, seen from the link; data is read three cycles after the address."""
    return wiring.Signature({"address": Out(REGISTER_BITS), "w_data": Out(32), "write": Out(1), "r_data": In(32)})
