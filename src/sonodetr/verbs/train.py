"""`sonodetr train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sonodetr.verbs.answers import Json, Stopped, answer


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
    answer(result, json_out, f"{folder}: trained; try it: sonodetr predict {folder} SOURCE")
