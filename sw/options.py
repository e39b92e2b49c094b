"""Options that several commands have, and how their values are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .errors import AmacrineError
from .layout import Parameters
from .protocol import BAUD

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FILE = click.Path(path_type=Path)


class Seconds(click.FloatRange):
    """Seconds, a day at most; click itself lets NaN through every range."""

    def __init__(self, min_open: bool = False):
        super().__init__(min=0, min_open=min_open, max=24 * 60 * 60)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


theta: Decorator = click.option(
    "--theta", metavar="Θ", help="Thresholds, such as 0.1 for all, or gru1.input=0.1,gru2=26lsb,recurrent=0.05. "
    "[default: 0, for nsnet2 and silero-vad a chosen set]")
calibration: Decorator = click.option(
    "--calibration", type=FILE, metavar="CAL.npy", help="Typical inputs (T, n) to choose number formats from.")
pes: Decorator = click.option(
    "--pes", type=int, default=8, show_default=True, help="Processing elements, 1 to 64.")
parameter: Decorator = click.option(
    "--parameter", "settings", multiple=True, metavar="NAME=VALUE",
    help="Another parameter of the gateware, such as vector_depth=8192 (docs/program.md); may be repeated.")
def _latency(ctx: click.Context, option: click.Parameter, value: int) -> int:
    if value != 1 and not 3 <= value <= 128:
        raise AmacrineError(f"the memory's latency must be 1 or 3 to 128 cycles, not {value}")
    return value


latency: Decorator = click.option(
    "--latency", type=int, default=1, show_default=True, callback=_latency,
    help="Cycles from a weight request to its first word in the simulation, 1 or 3 to 128.")
port: Decorator = click.option(
    "--port", metavar="PORT", help="The board's serial port, such as /dev/ttyUSB0; 'amacrine devices' lists them.")
baud: Decorator = click.option(
    "--baud", type=click.IntRange(min=1), default=BAUD, show_default=True, help="The board's baud rate.")
timeout: Decorator = click.option(
    "--timeout", type=Seconds(min_open=True), default=1.0, show_default=True, metavar="S",
    help="Seconds without an answer after which the board is asked again, 10 times in all.")
json_file: Decorator = click.option(
    "--json", "json_path", type=FILE, metavar="FILE", help="Also write the figures as JSON.")


def parameters(pes: int, settings: Sequence[str], defaults: Mapping[str, int] | None = None) -> Parameters:
    """Gateware parameters from the options; AmacrineError for names or values that there are not.

    Parameters
    ----------
    pes, settings : of the options
    defaults : parameters that the network needs, unless the settings say otherwise
    """
    values = dict(defaults or {})
    names = [name for name in Parameters().as_dict() if name != "pes"]
    for text in settings:
        name, _, value = text.partition("=")
        if name not in names:
            raise AmacrineError(f"there is no parameter {name!r}; choose one of {', '.join(names)}")
        try:
            values[name] = int(value)
        except ValueError:
            raise AmacrineError(f"the parameter {name} must be a whole number, not {value!r}") from None
    return Parameters.from_dict({"pes": pes} | values)


def given(ctx: click.Context, *names: str) -> list[str]:
    """Those of these options that stand on the command line, as the user writes them."""
    return [option.opts[0] for option in ctx.command.params
            if option.name in names and ctx.get_parameter_source(option.name) == ParameterSource.COMMANDLINE]


def note(text: str) -> None:
    """One remark on stderr."""
    click.echo(f"amacrine: note: {text}", err=True)
