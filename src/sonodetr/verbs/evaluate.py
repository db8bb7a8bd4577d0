"""`sonodetr evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sonodetr.files import check_apart, check_folder
from sonodetr.verbs.answers import Json, Model, answer, check_json


def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="labelled data: folder or file")],
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option(help="all labelled frames, or a part of the run's own division"),
    ] = "all",
    past: Annotated[
        Literal["real", "frozen", "shuffled"],
        typer.Option(help="frames before the labelled one: as they are, it repeated, disordered"),
    ] = "real",
    seed: Annotated[int, typer.Option(min=0, help="of the intervals and of shuffled frames")] = 0,
    images: Annotated[str, typer.Option(help="folder of the pictures, if elsewhere")] = "",
    on_bad_label: Annotated[
        Literal["error", "skip"], typer.Option(help="stop at a bad label, or skip it")
    ] = "error",
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder for the results  [default: MODEL/evaluation-SPLIT[-PAST]; of a bundled "
            "model MODEL-evaluation-SPLIT[-PAST]]"
        ),
    ] = None,
    json_out: Json = "",
) -> None:
    """Measure a model on labelled data.

    Writes evaluation.json, precision_recall.png and matches.npz, and shows the main figures
    with their intervals over recordings. What a model of clips makes of time is seen by taking
    it away: with --past frozen nothing moves, with --past shuffled nothing moves as it did.

    \b
    Examples:
      sonodetr evaluate runs/nerves data/coco.json --split test
      sonodetr evaluate runs/needle3d data --split test --past frozen
      sonodetr evaluate runs/nerves data/coco.json --json -
    """
    from rich.console import Console

    from sonodetr.evaluation.evaluate import FILES
    from sonodetr.evaluation.evaluate import evaluate as measure
    from sonodetr.evaluation.tables import print_evaluation

    if json_out:
        check_apart(data, json_out)
    part = f"evaluation-{split}{'' if past == 'real' else f'-{past}'}"
    # A bundled model's own folder is part of the package.
    beside = Path(model) / part if Path(model).exists() else Path(f"{model}-{part}")
    folder = out or beside
    check_json(json_out, *(folder / name for name in FILES))
    check_folder(folder)  # before minutes of work that could not be kept
    result = measure(
        model,
        data,
        out=folder,
        split=split,
        past=past,
        seed=seed,
        images=images,
        on_bad_label=on_bad_label,
    )
    if json_out != "-":
        print_evaluation(result, Console())
    answer(result, json_out, f"{folder}: {FILES[0]}, {FILES[1]} and {FILES[2]}")
