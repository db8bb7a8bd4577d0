"""Opens a teacher by its folder, whatever made it."""

import os
from pathlib import Path

from sonodetr.distill.huggingface_teacher import open_huggingface
from sonodetr.distill.teachers import RunTeacher, Teacher
from sonodetr.files import InputError
from sonodetr.training.run import CONFIG, load_run


def open_teacher(path: str | os.PathLike[str]) -> Teacher:
    """A run folder of ours, or a detector's folder as transformers saves it, as a teacher.

    Raises:
        InputError: neither lies there, or it cannot teach; the line says why.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise InputError(f"teacher {folder}: {found}; give a run folder, or a detector's folder")
    if (folder / CONFIG).is_file():
        model, config, info = load_run(folder)
        return RunTeacher(model, config, info.classes, info.threshold, str(folder))
    if (folder / "config.json").is_file():
        return open_huggingface(folder)
    raise InputError(
        f"teacher {folder}: holds neither config.yaml (a run) nor config.json (a detector saved by "
        "transformers)"
    )
