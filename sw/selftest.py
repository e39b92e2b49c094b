"""Self-test of a board from the host: line, registers, and its memory, with a verdict in plain language for each.

Memory is tested in the order in which faults show most clearly: data lines at one address, then address lines at the
powers of two, then every cell with a pattern and with its inverse, which the device writes and sums up itself.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .device import CHUNK_WORDS, Device
from .errors import MemoryFaultError
from .layout import IDENTITY, Register

WORD_BITS = 16
PINGS = 200

ProgressFactory = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Check:
    """A verdict.

    Parameters
    ----------
    name : of what was tested
    passed : whether it is in order
    text : what was found, for people
    """

    name: str
    passed: bool
    text: str


def selftest(device: Device, pattern_words: int | None = None,
             progress: ProgressFactory = lambda label, total: lambda done: None) -> Iterator[Check]:
    """Verdicts, each as soon as it is there. Overwrites the memory, so a loaded program is gone.

    Parameters
    ----------
    pattern_words : test the pattern in so many words from address 0 only; None: in all
    progress : makes a function that is told what is done, for what takes long
    """
    device.abort()
    yield check_line(device)
    yield check_registers(device)
    try:
        device.wait_for_memory()
    except MemoryFaultError as error:
        yield Check("memory", False, str(error))
        return
    data = check_data_lines(device)
    yield data
    if not data.passed:
        return
    usable, addresses = check_address_lines(device)
    yield addresses
    yield check_cells(device, min(usable, pattern_words or usable), progress)


def check_line(device: Device) -> Check:
    """Many small and some large frames there and back."""
    before = device.link_statistics()["host"]
    for number in range(PINGS):
        device.read_registers(Register.VECTOR, min(256, device.info.parameters.vector_depth) if number % 4 == 0 else 1)
    after = device.link_statistics()["host"]
    requests, repeated = (after[name] - before[name] for name in ("requests", "repeated"))
    clean = "none lost or damaged" if not repeated else f"{repeated} of them lost or damaged, and repeated"
    advice = "; use a shorter cable or a lower baud rate" if repeated > requests // 50 else ""
    return Check("line", True, f"{requests} requests, {clean}{advice}")


def check_registers(device: Device) -> Check:
    """The engine's own word for what it is."""
    [identity] = device.read_registers(Register.IDENTITY)
    told = device.info.parameters.as_dict()
    found = device.read_registers(Register.PARAMETERS, len(told))
    if identity != IDENTITY:
        return Check("registers", False, f"the engine's identity reads {identity:#010x} instead of {IDENTITY:#010x}")
    for (name, value), number in zip(told.items(), found, strict=True):
        if value != number:
            return Check("registers", False, f"the engine has {name} {number}, but the board says {value}")
    return Check("registers", True, f"an engine with {told['pes']} PEs at {device.info.clock_hz / 1e6:g} MHz")


def check_data_lines(device: Device) -> Check:
    """Walking ones and zeros at address 0."""
    ones = [1 << bit for bit in range(WORD_BITS)]
    patterns = [0, 0xFFFF, *ones, *(0xFFFF ^ one for one in ones), 0x5555, 0xAAAA]
    found = []
    for pattern in patterns:    # one after the other: the next must not overtake
        device.write_memory(0, np.array([pattern], np.uint16))
        found.append(int(device.read_memory(0, 1)[0]))
    if found == patterns:
        return Check("data lines", True, f"all {WORD_BITS} in order")
    faults = [_data_fault(bit, patterns, found) for bit in range(WORD_BITS)]
    return Check("data lines", False, "; ".join(filter(None, faults)))


def _data_fault(bit: int, patterns: list[int], found: list[int]) -> str:
    values = [word >> bit & 1 for word in found]
    if values == [word >> bit & 1 for word in patterns]:
        return ""
    if len(set(values)) == 1:
        return f"data line {bit} always reads {values[0]}"
    twins = [other for other in range(WORD_BITS)
             if other != bit and values == [word >> other & 1 for word in found]]
    return f"data line {bit} is connected to {twins[0]}" if twins else f"data line {bit} is unreliable"


def check_address_lines(device: Device) -> tuple[int, Check]:
    """A different word at address 0 and at each power of two; also the words from 0 on that can be used."""
    size = device.info.memory_words
    addresses = [0, *(1 << bit for bit in range((size - 1).bit_length()))]
    words = [0x0101 * (number + 1) ^ 0x5AA5 for number in range(len(addresses))]
    for address, word in zip(addresses, words, strict=True):
        device.write_memory(address, np.array([word], np.uint16))
    found = [int(device.read_memory(address, 1)[0]) for address in addresses]
    if found == words:
        return size, Check("address lines", True, f"{_size(size)}, all of it with addresses of its own")
    # Addresses that lead to the same cell read the same, whichever was written last.
    origin, *powers = found
    dead = [bit for bit, word in enumerate(powers) if word == origin]
    twins = [(a, b) for a in range(len(powers)) for b in range(a) if powers[a] == powers[b] != origin]
    usable = 1 << min([*dead, *(a for a, _ in twins)], default=0)
    if dead:
        lines = ("address line " if len(dead) == 1 else "address lines ") + " and ".join(map(str, dead))
        text = (f"the memory chip answers for {_size(size >> len(dead))} of {_size(size)}: {lines} "
                f"{'has' if len(dead) == 1 else 'have'} no effect (a smaller chip, or a bad connection)")
    elif twins:
        text = "; ".join(f"address lines {b} and {a} are connected" for a, b in twins)
    else:
        address = next(a for a, word, there in zip(addresses, words, found, strict=True) if word != there)
        return 1, Check("address lines", False, f"the word at address {address:#x} is not what was written there")
    return usable, Check("address lines", False, f"{text}; programs up to {_size(usable)} can be used")


def check_cells(device: Device, words: int, progress: ProgressFactory) -> Check:
    """A pattern that no two near addresses share, and its inverse, in every word."""
    seed = random.randrange(1 << 16)
    tell = progress("memory", 4 * words)
    for number, value in enumerate((seed, seed ^ 0xFFFF)):
        done = 2 * number * words
        device.fill(0, words, value, _shifted(tell, done))
        sums = device.checksums(0, words, _shifted(tell, done + words))
        for start, crc in zip(range(0, words, CHUNK_WORDS), sums, strict=True):
            expected = pattern(start, min(CHUNK_WORDS, words - start), value)
            if crc != zlib.crc32(expected.tobytes()):
                return Check("cells", False, _cell_fault(device, start, expected))
    part = "" if words == device.info.memory_words else f" (of {_size(device.info.memory_words)})"
    return Check("cells", True, f"{_size(words)}{part} hold a pattern and its inverse")


def _shifted(tell: Callable[[int], None], by: int) -> Callable[[int], None]:
    return lambda done: tell(by + done)


def _cell_fault(device: Device, start: int, expected: np.ndarray) -> str:
    found = device.read_memory(start, len(expected))
    wrong = np.flatnonzero(found != expected)
    if not len(wrong):
        return (f"the memory from address {start:#x} gave a wrong checksum, but reads right: cells or connections are "
                "unreliable")
    first = wrong[0]
    return (f"{len(wrong)} of the {len(expected)} words from address {start:#x} are wrong, the first at "
            f"{start + first:#x}: {found[first]:#06x} instead of {expected[first]:#06x}")


def pattern(start: int, count: int, seed: int) -> np.ndarray:
    """The words that FILL_MEMORY writes, uint16: `protocol.fill_word` of each address."""
    address = np.arange(start, start + count, dtype=np.uint32)
    return (address ^ address >> 16 ^ seed).astype("<u2")


def _size(words: int) -> str:
    size = 2 * words
    for unit, name in ((1 << 20, "MB"), (1 << 10, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"
