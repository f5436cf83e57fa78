"""The application: commands, exit codes, and the one place where errors are caught."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from bbx.cli import (
    bench,
    bisect,
    build_trt,
    compare,
    doctor,
    eval,
    export,
    models,
    parity,
    predict,
    quantize,
    report,
    summary,
    train,
)
from bbx.cli.output import print_failure
from bbx.errors import BbxError, Cancelled, ExhaustedError, UsageError
from bbx.version import __version__

# Help without rich starts three times as fast; tables are drawn with rich once there is one to draw.
app = typer.Typer(
    name="bbx",
    help="From a PyTorch backbone and head to TorchScript, ONNX and TensorRT engines, with proof.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("models")(models.models)
app.command("summary")(summary.summary)
app.command("export")(export.export)
app.command("build-trt")(build_trt.build_trt)
app.command("quantize")(quantize.quantize)
app.command("parity")(parity.parity)
app.command("bisect")(bisect.bisect)
app.command("eval")(eval.evaluate)
app.command("predict")(predict.predict)
app.command("train")(train.train)
app.command("bench")(bench.bench)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bbx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends bbx as Ctrl-C does, so that nothing is left behind."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit with the code of the contract (design, section 3)."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    try:
        answer: Any = app(arguments or ["--help"], prog_name="bbx", standalone_mode=False)
    except KeyboardInterrupt:
        return print_failure(Cancelled("Cancelled."), as_json="--json" in arguments)
    except BbxError as error:
        return print_failure(error, as_json="--json" in arguments)
    except typer.TyperException as error:
        return _wrong_usage(error, as_json="--json" in arguments)
    except SystemExit as left:
        # So Typer leaves when the reader of our output went away (`bbx models | head`).
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        return 0
    except MemoryError:
        failure = ExhaustedError("Out of memory.", hint="Use a smaller model or batch.")
        return print_failure(failure, as_json="--json" in arguments)
    return answer if isinstance(answer, int) else 0


def _wrong_usage(error: typer.TyperException, *, as_json: bool) -> int:
    """Typer's own words, in one line like any other error."""
    context: Any = getattr(error, "ctx", None)
    hint = f"Type: {context.command_path} --help" if context is not None else ""
    words = error.format_message()
    return print_failure(UsageError(words if words[-1] in ".?" else f"{words}.", hint=hint), as_json=as_json)
