"""Exceptions for what is not a fault of the program itself."""


class AmacrineError(Exception):
    """Bad input or a missing tool: one clear sentence naming the thing and the way out.

    The command line prints it without a traceback and exits with code 2.
    """

    exit_code = 2


class DiffersError(AmacrineError):
    """The hardware's output or counters are not the golden model's; exit code 1."""

    exit_code = 1


class FaultFoundError(AmacrineError):
    """A self-test found a fault of the hardware; exit code 1."""

    exit_code = 1


class DeviceError(AmacrineError):
    """Something about a board or its serial port."""


class PortError(DeviceError):
    """The serial port cannot be used: not there, not permitted, held by another program, vanished."""


class SilentError(DeviceError):
    """Nothing answers."""


class LinkError(DeviceError):
    """Too many damaged frames."""


class WrongDeviceError(DeviceError):
    """What answers is other gateware than this driver is for."""


class RefusedError(DeviceError):
    """The device answered a request with an error status.

    Parameters
    ----------
    status : of the answer, `protocol.Status` or a number that has no name there
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class SessionError(DeviceError):
    """The sequence is gone: the device was reset, or another host has started one."""


class MisfitError(DeviceError):
    """The program is for other gateware, or larger than the board's memory."""


class MemoryFaultError(DeviceError):
    """The board's memory does not hold what was written, or is not initialised."""
