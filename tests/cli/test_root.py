"""The ``vsr`` command as a whole: start-up, messages, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import vsr_kernels
from vsr.cli import app, info
from vsr.errors import UserError

COMMANDS = ("upscale", "models", "evaluate", "info", "compare", "demo", "train", "prune", "data")


def run(*arguments: str, **environment: str):
    return CliRunner(env=environment or None).invoke(app, arguments, prog_name="vsr")


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def gather() -> None:
        raise error

    monkeypatch.setattr(info, "gather", gather)


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in result.output
    assert run().output.strip() == result.output.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: vsr {command} " in result.output


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"vsr {vsr_kernels.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_start_up_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from vsr.cli import main\n"
        f"sys.argv = ['vsr', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'av', 'numpy', 'PIL', 'matplotlib', 'vsr_kernels'} & set(sys.modules)\n"
        "    print('loaded', sorted(heavy), file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip().endswith("loaded []")
    assert time.perf_counter() - start < 3  # a quarter of a second on an idle machine


def test_a_user_error_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, UserError("clip.mp4: no such file,\nor no permission"))
    result = run("info")
    assert result.exit_code == 2
    assert result.stderr == "error: clip.mp4: no such file, or no permission\n"
    assert result.stdout == ""


def test_a_file_error_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, PermissionError(13, "Permission denied", "out.json"))
    result = run("info")
    assert (result.exit_code, result.stderr) == (2, "error: out.json: Permission denied\n")
    raising(monkeypatch, OSError("strange disk"))
    result = run("info")
    assert (result.exit_code, result.stderr) == (2, "error: strange disk\n")


def test_an_interrupt_is_one_line_and_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    result = run("info")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_defect_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("division by zero"))
    result = run("info")
    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: division by zero (a defect; `vsr --debug ...` shows where)\n"


@pytest.mark.parametrize("arguments", [["--debug", "info"], ["info"]])
def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    raising(monkeypatch, UserError("wrong"))
    result = run(*arguments, VSR_DEBUG="" if "--debug" in arguments else "1")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "in gather" in result.stderr
    assert result.stderr.endswith("\nerror: wrong\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-command"], "No such command"),
        (["info", "--no-such-option"], "No such option"),
        (["compare"], "Missing argument"),
        (["evaluate", "a", "b", "--crop", "x"], "Invalid value for '--crop'"),
        (["evaluate", "a", "b", "--channel", "u"], "Invalid value for '--channel'"),
    ],
)
def test_errors_of_usage_exit_with_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_main_is_the_console_script() -> None:
    code = "import sys; from vsr.cli import main; sys.argv = ['vsr', 'compare', 'a.png', 'out.png']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: expected two or more inputs and an output, got only a.png and out.png\n"


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    code = "import sys; from vsr.cli import main; sys.argv = ['vsr', 'info']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
