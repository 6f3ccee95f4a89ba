"""The ``vsr`` command: one module per subcommand; heavy libraries are imported inside them only.

Whatever goes wrong is one line on standard error: exit code 2 where the user can put it right (a
:class:`~vsr.errors.UserError`, a file that cannot be read or written), 1 for a defect of this program, and 130 when
interrupted. ``vsr --debug COMMAND`` or ``VSR_DEBUG=1`` adds the traceback.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vsr.cli import compare, data, demo, evaluate, export, info, models, prune, quantize, train, upscale
from vsr.errors import UserError

_DEBUG_HINT = "`vsr --debug ...` shows where"


class _Commands(TyperGroup):
    """The group of commands, with one place where exceptions become messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            self._stop(ctx, f"error: {error}", 2)
        except KeyboardInterrupt:
            self._stop(ctx, "interrupted", 130)
        except BrokenPipeError:
            raise  # the reader of our output has left: typer ends quietly
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            self._stop(ctx, f"error: {place}{error.strerror or error}", 2)
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise  # typer's own: exits, and errors of usage, which it prints itself
            self._stop(ctx, f"error: {type(error).__name__}: {error} (a defect; {_DEBUG_HINT})", 1)

    @staticmethod
    def _stop(ctx: Any, message: str, code: int) -> None:
        if ctx.params.get("debug"):
            traceback.print_exc(file=sys.stderr)
        typer.echo(" ".join(message.splitlines()), err=True)
        raise typer.Exit(code)


app = typer.Typer(
    name="vsr",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Video super-resolution on CPUs and GPUs.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vsr {_version()}")
        raise typer.Exit


def _version() -> str:
    """The version of the kernels' package, read from its file: importing the package would load torch."""
    spec = find_spec("vsr_kernels")
    if spec is None or spec.origin is None:
        raise typer.BadParameter("the package vsr_kernels is not installed")
    return str(runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"])


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", envvar="VSR_DEBUG", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Video super-resolution on CPUs and GPUs."""


app.command("upscale")(upscale.upscale_command)
app.add_typer(models.app, name="models")
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)
app.command("prune")(prune.prune)
app.command("quantize")(quantize.quantize)
app.command("merge")(export.merge)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.command("compare")(compare.compare)
app.command("info")(info.info)
app.command("demo")(demo.demo)


def main() -> None:
    """Entry point of the console script ``vsr``."""
    # Decoding and encoding share the cores with the model; OpenMP threads that spin while they wait slow all of it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="vsr")
