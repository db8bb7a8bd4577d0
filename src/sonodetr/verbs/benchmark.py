"""`sonodetr benchmark`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from sonodetr.files import check_folder, write_json, write_text
from sonodetr.verbs.answers import Json, answer, check_json

FILES = ("benchmark.json", "benchmark.md", "pareto.png")
_SEVERAL = ("--runtime", "--threads", "--size")
_RUNTIMES = ("torch", "onnx", "openvino")


class SeveralValues(TyperCommand):
    """Lets `--threads 1 2` stand for `--threads 1 --threads 2`, and the like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words with the option's name before each of its values."""
        words: list[str] = []
        option = ""
        for number, word in enumerate(args):
            if word.startswith("-"):
                option = word if word in _SEVERAL else ""
            elif option and args[number - 1] != option:
                if word.isdigit() if option != "--runtime" else word in _RUNTIMES:
                    words.append(option)
                else:
                    option = ""
            words.append(word)
        return super().parse_args(ctx, words)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="run folders, exported folders, bundled models"),
    ],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="torch|onnx|openvino",
            help="one or more, for run folders  [default: onnx openvino]",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="one or more numbers of processor threads  [default: 1]"),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            metavar="PIXELS",
            help="one or more sides of a square input, for run folders  [default: as in training]",
        ),
    ] = None,
    source: Annotated[
        str, typer.Option(help="recording whose frames are looked at")
    ] = "simulator:1",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="to spend on each configuration")
    ] = 4.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="show which operators the time goes to")
    ] = False,
    data: Annotated[
        str,
        typer.Option(help="labelled data to take the AP from  [default: the run's evaluation]"),
    ] = "",
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option(help="with --data: all labelled frames, or a part of the run's own division"),
    ] = "test",
    out: Annotated[Path | None, typer.Option(help="folder for the results")] = None,
    json_out: Json = "",
) -> None:
    """Time models, and say how far they are from what the machine could do.

    A run folder is exported for each runtime and copied for each size; an exported folder is timed
    as it is. All configurations take turns, each in a process of its own; nothing else should run
    meanwhile. Writes OUT/benchmark.json, OUT/benchmark.md and, where an AP is known,
    OUT/pareto.png.

    \b
    Examples:
      sonodetr benchmark runs/nano --threads 1 2 --size 160 256
      sonodetr benchmark runs/nano exported/nano-int8 --runtime onnx --profile --out speed
      sonodetr benchmark runs/nano runs/teacher --data data/coco.json --json -
    """
    from rich.console import Console

    from sonodetr.benchmark.measure import Settings
    from sonodetr.benchmark.measure import benchmark as measure
    from sonodetr.benchmark.plot import plot_pareto
    from sonodetr.benchmark.tables import markdown, print_tables

    if out is not None:
        check_json(json_out, *(out / name for name in FILES))
        check_folder(out)  # before minutes of work that could not be kept
    settings = Settings(
        runtimes=tuple(dict.fromkeys(runtime or ("onnx", "openvino"))),
        threads=tuple(dict.fromkeys(threads or (1,))),
        sizes=tuple(dict.fromkeys(size or ())),
        source=source,
        seconds=seconds,
        profile=profile,
        data=data,
        split=split,
    )
    result = measure(models, settings)
    written = ""
    if out is not None:
        figures, tables, plot = FILES
        write_json(out / figures, result)
        write_text(out / tables, markdown(result))
        plotted = plot_pareto(out / plot, result["results"])
        written = f"{out}: {figures}, {tables}{f' and {plot}' if plotted else ''}"
    if json_out != "-":
        print_tables(result, Console())
    answer(result, json_out, written)
