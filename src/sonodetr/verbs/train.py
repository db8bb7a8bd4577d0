"""`sonodetr train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonodetr.bundled import model_folder, preset_names
from sonodetr.verbs.answers import Json, Stopped, answer, check_json

if TYPE_CHECKING:
    from sonodetr.config import Config


ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help=f"YAML file, or a preset by name: {', '.join(preset_names())}"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="changes to the config"),
]
Resume = Annotated[bool, typer.Option("--resume", help="continue an interrupted run")]
Runs = Annotated[Path, typer.Option(help="folder of run folders")]


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    out: Runs = Path("runs"),
    json_out: Json = "",
) -> None:
    """Train a detector.

    Writes a run folder, OUT/NAME, with the best weights and all that is needed to resume.

    \b
    Examples:
      sonodetr train nano data.path=my/labels.json name=mine
      sonodetr train nano data.path=my/labels.json name=mine model.weights=nano
      sonodetr train configs/nerves.yaml
      sonodetr train configs/nerves.yaml train.epochs=10 name=short
      sonodetr train configs/nerves.yaml --resume
    """
    from sonodetr.config_file import load_config

    fit(load_config(config, overrides or ()), out, resume, json_out)


def fit(settings: "Config", out: Path, resume: bool, json_out: str) -> None:
    """Train, and say where the run is and how good it is."""
    from sonodetr.training.fit import train
    from sonodetr.training.run import read_info

    check_json(json_out, out / settings.name)
    try:
        folder = train(_with_folders(settings), out, resume=resume)
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


def _with_folders(settings: "Config") -> "Config":
    """The config with folders where bundled models are named: as teacher, or to start from."""
    from sonodetr.config_file import with_weights_folder

    distill = settings.distill
    if distill.teacher:
        distill = distill.model_copy(update={"teacher": str(model_folder(distill.teacher))})
    return with_weights_folder(settings.model_copy(update={"distill": distill}))
