"""The link's frames: what host driver and gateware must agree on. Described in docs/protocol.md.

Plain Python and two libraries (COBS, CRC-32), so that gateware, driver and tests share one definition.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from cobs import cobs

VERSION = 1
"""Version of the protocol, in the address field of the answer to IDENTIFY."""

BAUD = 3_000_000
"""Speed of the line, bits a second, unless a board says otherwise."""

MAX_DATA = 1024
"""Most bytes of data in a request or an answer."""

HEADER = struct.Struct("<BBHI")
"""tag, operation or status, count, address."""

EXCHANGE_HEADER = struct.Struct("<IHHHH")
"""First data of an EXCHANGE request: output position, session, outputs wanted, hold, zero."""

EXCHANGE_ANSWER = struct.Struct("<IHH")
"""First data of an EXCHANGE answer: input position, free input elements, zero."""

MEMORY_RANGE = struct.Struct("<II")
"""Data of CHECKSUM_MEMORY and FILL_MEMORY: count of memory words, seed (CHECKSUM: zero)."""

HOLD_CYCLES = 256
"""Clock cycles in a unit of an EXCHANGE's hold."""

CRC_BYTES = 4
MIN_FRAME = HEADER.size + CRC_BYTES
MAX_FRAME = HEADER.size + EXCHANGE_HEADER.size + MAX_DATA + CRC_BYTES
"""Longest frame before COBS, in bytes."""

LINK_REGISTERS = 0x40000
"""Register address of the first `LinkRegister`; smaller addresses are the engine's (`layout.Register`)."""


class Operation(IntEnum):
    """What a request asks for."""

    IDENTIFY = 0x01
    READ_REGISTERS = 0x02
    WRITE_REGISTERS = 0x03
    READ_MEMORY = 0x04
    WRITE_MEMORY = 0x05
    CHECKSUM_MEMORY = 0x06
    FILL_MEMORY = 0x07
    START = 0x08
    EXCHANGE = 0x09
    ABORT = 0x0A


class Status(IntEnum):
    """What an answer says; all but OK carry no data and mean that nothing was done. The smallest that applies."""

    OK = 0
    UNKNOWN_OPERATION = 1   # no such operation
    BAD_LENGTH = 2          # the data do not fit the count, or the count is out of range
    BAD_ADDRESS = 3         # no such memory or register, or session number
    BUSY = 4                # memory is out of reach while the engine runs, or before it is initialised
    WRONG_SESSION = 5       # another session was started, or none since the reset
    WRONG_POSITION = 6      # outputs that were released, or that there are not yet
    NO_ROOM = 7             # more input elements than the input buffer has room for


class LinkRegister(IntEnum):
    """Registers of the link, 32 bits, relative to `LINK_REGISTERS`; counts since the reset, modulo 2**32."""

    RECEIVED = 0        # good frames
    BAD_CHECKSUM = 1    # frames dropped: CRC-32
    BAD_FORM = 2        # frames dropped: COBS structure, or too short
    TOO_LONG = 3        # frames dropped: longer than MAX_FRAME
    OVERRUN = 4         # frames dropped: the receive buffer had no room
    BAD_CHARACTER = 5   # characters without a stop bit; the frame around one is dropped
    REFUSED = 6         # requests answered with an error status
    FLAGS = 7           # bit 0: the memory is initialised
    SESSION = 8         # number of the session, 0 for none
    CYCLES = 9          # clock cycles


def fill_word(address: int, seed: int) -> int:
    """The 16-bit word that FILL_MEMORY writes at a memory word address."""
    return (address ^ address >> 16 ^ seed) & 0xFFFF


class FrameError(Exception):
    """What arrived is no frame: the reason is its text."""


def encode(body: bytes) -> bytes:
    """A frame for the line: COBS of body and CRC-32, and the zero byte that ends it."""
    return cobs.encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


def decode(line: bytes) -> bytes:
    """The body of a frame, given what stood between two zero bytes.

    Raises
    ------
    FrameError
        It is too long or too short, no COBS, or its CRC-32 is another.
    """
    if len(line) > MAX_FRAME + MAX_FRAME // 254 + 1:
        raise FrameError(f"{len(line)} bytes without a zero, more than a frame has")
    try:
        frame = cobs.decode(line)
    except cobs.DecodeError as error:
        raise FrameError(f"not COBS ({error})") from error
    if not MIN_FRAME <= len(frame) <= MAX_FRAME:
        raise FrameError(f"{len(frame)} bytes instead of {MIN_FRAME} to {MAX_FRAME}")
    body, checksum = frame[:-CRC_BYTES], frame[-CRC_BYTES:]
    if struct.pack("<I", zlib.crc32(body)) != checksum:
        raise FrameError("wrong CRC-32")
    return body


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Parameters
    ----------
    tag : 0 to 255; an answer has its request's
    code : `Operation` of a request, `Status` of an answer
    count, address : by operation, 16 and 32 bits
    data : at most MAX_DATA bytes, and EXCHANGE_HEADER
    """

    tag: int
    code: int
    count: int = 0
    address: int = 0
    data: bytes = b""

    def to_bytes(self) -> bytes:
        """The body of its frame."""
        return HEADER.pack(self.tag, self.code, self.count, self.address) + self.data

    @classmethod
    def from_bytes(cls, body: bytes) -> Message:
        """Inverse of `to_bytes`; a body of at least HEADER.size bytes."""
        tag, code, count, address = HEADER.unpack_from(body)
        return cls(tag, code, count, address, body[HEADER.size :])
