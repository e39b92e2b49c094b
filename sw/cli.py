"""The `amacrine` command: its subcommands, and what becomes of their errors.

Exit codes: 0 done, 1 the hardware differs from the golden model or has a fault, 2 something that the user can put
right, 130 interrupted; but for 0, one sentence on stderr. A traceback (exit code 1) is always a fault of ours.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from .errors import AmacrineError

# NumPy reads this when it is loaded. Our matrices are small: further threads mostly wait for each other, and
# on a machine with other work to do everything takes many times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Name -> (module:function, one line for --help). Modules load when their command runs, so that the
# heavy imports of one command slow down neither the others nor --help.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("amacrine.sw.cli_run:run", "Run a network in floating point, golden model, simulation, or on a board."),
    "compile": ("amacrine.sw.cli_compile:compile_", "Compile a network to a program file."),
    "info": ("amacrine.sw.cli_compile:info", "Show what is in a program file."),
    "devices": ("amacrine.sw.cli_device:devices", "List serial ports and what answers on them."),
    "simulate": ("amacrine.sw.cli_board:simulate", "Simulate a board behind a serial port."),
    "bitstream": ("amacrine.sw.cli_board:bitstream", "Make a board's bitstream."),
    "program": ("amacrine.sw.cli_program:program", "Program a board over its USB cable."),
    "selftest": ("amacrine.sw.cli_device:selftest_", "Test a board's line, registers and memory."),
    "demo": ("amacrine.sw.cli_demo:demo", "Enhance noisy speech on the simulated hardware."),
    "bench": ("amacrine.sw.cli_bench:bench", "Measure the hardware: utilisation, memory, real time, area."),
}


class OneLineError(click.ClickException):
    """What the user can put right, as one line on stderr."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, reads the instance's

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"amacrine: error: {self.message}", file, err=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of ours and of click's into `OneLineError`."""
    try:
        yield
    except AmacrineError as error:
        raise OneLineError(str(error), error.exit_code) from error
    except click.exceptions.NoArgsIsHelpError:
        raise  # shows the help
    except click.UsageError as error:
        usage = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        raise OneLineError(" ".join(error.format_message().split()).rstrip(".") + usage) from error


class LazyGroup(click.Group):
    """The commands of a table such as `COMMANDS`, and the one place where errors become exit codes."""

    def __init__(self, table: dict[str, tuple[str, str]], **attrs: object) -> None:
        super().__init__(**attrs)  # type: ignore[arg-type]
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, function = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without loading them."""
        if self.table:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with one_line_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("amacrine: interrupted", err=True)
            ctx.exit(130)


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="amacrine", prog_name="amacrine")
def main() -> None:
    """Run neural networks on hardware that computes only what changed."""
