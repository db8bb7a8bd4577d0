"""What comes with the package and is opened by its name: presets of configs, and trained models.

Imports nothing heavy.
"""

import os
from pathlib import Path

from sonodetr.files import InputError, closest

PRESETS = Path(__file__).with_name("presets")  # NAME.yaml
MODELS = Path(__file__).with_name("models")  # run folders, as scripts/bundle_model.py writes them


def preset_names() -> list[str]:
    """Names of all presets, in order.

    >>> preset_names()
    ['nano', 'small', 'teacher-2d', 'teacher-3d', 'tiny']
    """
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def model_names() -> list[str]:
    """Names of all bundled models, in order; there may be none."""
    return sorted(path.parent.name for path in MODELS.glob("*/run.json"))


def preset_file(name: str) -> Path:
    """The YAML file of a preset.

    Raises:
        InputError: there is none of that name; the line names all.
    """
    if name not in preset_names():
        raise InputError(f"no preset {name!r}; {closest(name, preset_names())}")
    return PRESETS / f"{name}.yaml"


def model_folder(model: str | os.PathLike[str]) -> Path:
    """The folder of a model: the path itself if it exists, else the bundled model of that name.

    Raises:
        InputError: it is neither, or a file; the line says what to give.

    >>> model_folder("noplace")  # doctest: +SKIP
    InputError: noplace: no such run folder, and no bundled model; Allowed: nano, tiny; give ...
    """
    path, names = Path(model), model_names()
    if path.is_dir():
        return path
    if os.fspath(model) in names:
        return MODELS / path
    if path.exists():
        raise InputError(
            f"{path}: is a file, not a run folder; give the folder that `sonodetr train` wrote, "
            "with config.yaml, run.json and model.safetensors, or one that `sonodetr export` wrote "
            "(pickled checkpoints are not opened)"
        )
    bundled = f"no bundled model; {closest(str(path), names)}" if names else "no model is bundled"
    raise InputError(
        f"{path}: no such run folder, and {bundled}; give the folder that `sonodetr train` or "
        "`sonodetr export` wrote"
    )
