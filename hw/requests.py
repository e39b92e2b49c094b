"""Requests of the serial link (docs/protocol.md): their fields, and which are allowed."""

from typing import NamedTuple

from amaranth.hdl import unsigned
from amaranth.lib import data

from amacrine.sw.protocol import (
    EXCHANGE_ANSWER,
    EXCHANGE_HEADER,
    HEADER,
    LINK_REGISTERS,
    MAX_DATA,
    MEMORY_RANGE,
    LinkRegister,
    Operation,
)

MAX_WANTED = (MAX_DATA - EXCHANGE_ANSWER.size) // 2


class Rule(NamedTuple):
    """What a request must look like."""

    counts: range       # allowed
    length: int         # of the body but for what follows
    item: int           # bytes for each one counted
    limit: int          # end of the addresses; EXCHANGE has none


def rules(memory_words):
    """The `Rule` of each operation."""
    plain, none = HEADER.size, range(1)
    registers, words = range(1, MAX_DATA // 4 + 1), range(1, MAX_DATA // 2 + 1)
    ranged, exchange = plain + MEMORY_RANGE.size, plain + EXCHANGE_HEADER.size
    return {
        Operation.IDENTIFY: Rule(none, plain, 0, 0),
        Operation.READ_REGISTERS: Rule(registers, plain, 0, LINK_REGISTERS + len(LinkRegister)),
        Operation.WRITE_REGISTERS: Rule(registers, plain, 4, LINK_REGISTERS),
        Operation.READ_MEMORY: Rule(words, plain, 0, memory_words),
        Operation.WRITE_MEMORY: Rule(words, plain, 2, memory_words),
        Operation.CHECKSUM_MEMORY: Rule(none, ranged, 0, memory_words),
        Operation.FILL_MEMORY: Rule(none, ranged, 0, memory_words),
        Operation.START: Rule(none, plain, 0, 0xFFFF),
        Operation.EXCHANGE: Rule(range(MAX_DATA // 2 + 1), exchange, 2, 0),
        Operation.ABORT: Rule(none, plain, 0, 0),
    }


class Header(data.Struct):
    """`amacrine.sw.protocol.HEADER`."""

    tag: unsigned(8)
    code: unsigned(8)
    count: unsigned(16)
    address: unsigned(32)


class ExchangeHeader(data.Struct):
    """`EXCHANGE_HEADER`; the data of the operations on a memory range are its last 8 bytes."""

    position: unsigned(32)
    session: unsigned(16)
    wanted: unsigned(16)
    hold: unsigned(16)
    zero: unsigned(16)
