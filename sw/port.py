"""A serial port that never blocks: what is to be sent waits here until the port takes it."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Protocol, TypeVar

import serial

from .errors import PortError

READ_BYTES = 65536
T = TypeVar("T")


class HasFileno(Protocol):
    """Anything that `select` can wait for."""

    def fileno(self) -> int: ...


class Port(Protocol):
    """What a link needs of a port."""

    name: str

    def send(self, data: bytes) -> None:
        """Take bytes to be sent."""

    def receive(self, wait: float | None, wake: HasFileno | None = None) -> bytes:
        """What has arrived; waits for it no longer than so many seconds, and not when ``wake`` can be read."""

    def close(self) -> None: ...


class SerialPort:
    """A serial port of the operating system, for one program at a time.

    Parameters
    ----------
    name : such as /dev/ttyUSB0; a pseudo-terminal does as well
    baud : a pseudo-terminal takes any
    """

    def __init__(self, name: str, baud: int):
        self.name = name
        self._outgoing = bytearray()
        try:
            self._serial = serial.Serial(name, baud, timeout=0, write_timeout=0, exclusive=True)
        except serial.SerialException as error:
            raise PortError(_sentence(name, error.errno, str(error))) from error
        except (ValueError, OverflowError) as error:
            raise PortError(f"{name} cannot be set to {baud} baud ({error}); choose another --baud") from error
        # An FTDI chip waits 16 ms for more bytes before it passes on a few; 1 ms is as short as it goes.
        try:
            self._serial.set_low_latency_mode(True)
        except (ValueError, NotImplementedError, OSError):
            pass    # the driver has no such setting, or it is for root only: slower, but right

    def send(self, data: bytes) -> None:
        self._outgoing += data
        self._guarded(self._write)

    def receive(self, wait: float | None, wake: HasFileno | None = None) -> bytes:
        return self._guarded(lambda: self._receive(wait, wake))

    def _receive(self, wait: float | None, wake: HasFileno | None) -> bytes:
        port = self._serial.fileno()
        readers: list[int | HasFileno] = [port] if wake is None else [port, wake]
        readable, writable, _ = select.select(readers, [port] if self._outgoing else [], [], wait)
        if writable:
            self._write()
        if port not in readable:
            return b""
        data = os.read(port, READ_BYTES)
        if not data:
            raise OSError(errno.EIO, "end of file")
        return data

    def _write(self) -> None:
        try:
            del self._outgoing[: os.write(self._serial.fileno(), self._outgoing)]
        except BlockingIOError:
            pass    # later, from receive

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, serial.SerialException) as error:
            raise PortError(f"{self.name} has vanished ({error.strerror or error}): is the cable plugged in and the "
                            "board powered? Then start again") from error

    def close(self) -> None:
        self._serial.close()


def _sentence(name: str, number: int | None, text: str) -> str:
    """Why a port cannot be opened, and what to do about it."""
    if number == errno.ENOENT:
        return f"there is no port {name}; 'amacrine devices' lists those that there are"
    if number in (errno.EACCES, errno.EPERM):
        return (f"no permission to use {name}: join the group that owns it, on most systems by "
                "'sudo usermod -aG dialout $USER', and log in again")
    if number in (errno.EBUSY, errno.EAGAIN):
        return f"{name} is busy: another program holds it; end that first"
    return f"{name} cannot be opened as a serial port ({text})"
