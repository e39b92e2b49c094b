"""The command's frame: help, version, errors as exit codes, commands loaded only when called."""

import signal
import subprocess
import sys
import time
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from amacrine.sw import cli
from amacrine.sw.errors import AmacrineError


@click.command()
@click.option("--count", type=int, default=1)
def works(count):
    """A command that works."""
    click.echo(f"count {count}")


@click.command()
def refuses():
    """A command that refuses its input."""
    raise AmacrineError("model.onnx is not an ONNX file")


@click.command()
def breaks():
    """A command with a fault of ours in it."""
    raise ZeroDivisionError


@click.command()
def interrupted():
    """A command that the user stops."""
    raise KeyboardInterrupt


@pytest.fixture
def invoke():
    table = {name: (f"{__name__}:{name}", f"About {name}.") for name in ("works", "refuses", "breaks")}
    table["interrupted"] = (f"{__name__}:interrupted", "About interrupted.")
    table["absent"] = ("amacrine_no_such_module:absent", "About absent.")
    group = cli.LazyGroup(table, name="amacrine")
    return lambda *arguments: CliRunner().invoke(group, arguments)


def test_command_runs(invoke):
    result = invoke("works", "--count", "3")
    assert (result.exit_code, result.output) == (0, "count 3\n")


def test_help_lists_commands_without_loading_them(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    assert "absent       About absent." in result.stdout


def test_user_error_is_one_line_and_exit_code_2(invoke):
    result = invoke("refuses")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "amacrine: error: model.onnx is not an ONNX file\n"


def test_interrupt_is_exit_code_130(invoke):
    result = invoke("interrupted")
    assert result.exit_code == 130
    assert result.stderr == "amacrine: interrupted\n"


def test_own_fault_keeps_its_traceback(invoke):
    result = invoke("breaks")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["no-such-command"], ["works", "--count", "x"], ["--no-such-option"]])
def test_usage_error_is_exit_code_2(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("amacrine: error: ") and result.stderr.count("\n") == 1


def test_version():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"amacrine, version {version('amacrine')}\n")


def test_every_command_of_the_table_loads_and_has_help():
    for name in cli.COMMANDS:
        result = CliRunner().invoke(cli.main, [name, "--help"])
        assert result.exit_code == 0, name


def test_help_is_quick_and_needs_only_click():
    program = (
        "import sys\n"
        "from amacrine.sw.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    seconds = []
    for _ in range(3):  # the best of three, as the machine may be busy
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert result.stdout.startswith("Usage:")
    loaded = set(result.stdout.splitlines()[-1].split())
    assert not loaded & {"numpy", "onnx", "scipy", "amaranth", "tqdm", "soundfile"}
    assert min(seconds) < 0.5


def test_interrupt_signal_ends_the_real_process():
    program = (
        "import click, sys, time, types\n"
        "from amacrine.sw import cli\n"
        "@click.command()\n"
        "def wait():\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.modules['waiting'] = types.SimpleNamespace(wait=wait)\n"
        "cli.COMMANDS['wait'] = ('waiting:wait', 'Wait.')\n"
        "cli.main(['wait'])\n"
    )
    # A shell's background jobs, and all that they start, ignore SIGINT; this one must not.
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr == "amacrine: interrupted\n"
