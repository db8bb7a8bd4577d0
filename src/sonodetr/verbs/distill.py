"""`sonodetr distill`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sonodetr.verbs.answers import Json
from sonodetr.verbs.train import ConfigFile, Overrides, Resume, Runs, fit


def distill(
    config: ConfigFile,
    overrides: Overrides = None,
    teacher: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="run folder, bundled model, or folder of a Hugging Face detector  "
            "[default: config]",
        ),
    ] = "",
    resume: Resume = False,
    out: Runs = Path("runs"),
    json_out: Json = "",
) -> None:
    """Train a student that also learns from a teacher.

    The same training as `train`, with the losses of the config's distill section. Writes a run
    folder, OUT/NAME; its attention/ shows both models' maps side by side.

    \b
    Examples:
      sonodetr distill tiny --teacher runs/mine data.path=my/labels.json
      sonodetr distill configs/needle-student.yaml --teacher runs/needle-small
      sonodetr distill configs/needle-student.yaml --teacher RUN distill.memory.weight=1
      sonodetr distill configs/needle-student.yaml --teacher runs/needle-small --resume
    """
    from sonodetr.config_file import load_config
    from sonodetr.files import InputError

    words = [*(overrides or ()), *([f"distill.teacher={json.dumps(teacher)}"] if teacher else [])]
    settings = load_config(config, words)
    if not settings.distill.teacher:
        raise InputError("no teacher is named; give one: sonodetr distill CONFIG --teacher RUN")
    fit(settings, out, resume, json_out)
