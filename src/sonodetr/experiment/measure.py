"""Each finished run is evaluated once on each part of the data, and what was found is kept."""

from pathlib import Path
from typing import Any

from sonodetr.config import DataConfig
from sonodetr.contract import sha256
from sonodetr.evaluation.evaluate import evaluate
from sonodetr.evaluation.kept import Kept, read_kept
from sonodetr.experiment.address import data_address, evaluation_address
from sonodetr.files import InputError, read_json, write_json
from sonodetr.training.run import WEIGHTS
from sonodetr.types import PARTS

MEASURED = "measured.json"


def part_path(data: str, part: str) -> str:
    """Where a part of the data is read: with all of its division, or in a folder of its own."""
    return data if part in (*PARTS, "all") else f"{data}/{part}"


def measure(run_folder: Path, data: DataConfig, part: str) -> Kept:
    """What a run's best weights found on a part of the data.

    The first call runs the model and keeps `evaluation.json`, `matches.npz` and the plot of
    precision and recall in `run_folder/evaluation-PART`; later ones read them. A call that was
    killed leaves nothing that a later one would take for finished; where weights, data or the code
    that evaluates have changed since, it is measured anew.

    Args:
        run_folder: of a finished training.
        data: what students are trained on.
        part: "train", "validation" or "test" of the run's own division, "all", or a folder of
            `data.path` that is in no part of the division, such as "shifted".

    Raises:
        InputError: the run or the data cannot be used (see `evaluate`).
    """
    weights = run_folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{run_folder}: has no {WEIGHTS}; finish its training first")
    path = part_path(data.path, part)
    own = path == data.path
    images = data.images if own else ""
    folder = run_folder / f"evaluation-{part}"
    stamp = {
        "weights_sha256": sha256(weights),
        "data_sha256": data_address(path, images, data.on_bad_label),
        "code_sha256": evaluation_address(),
        "part": part,
    }
    if not ((folder / MEASURED).is_file() and read_json(folder / MEASURED) == stamp):
        (folder / MEASURED).unlink(missing_ok=True)
        evaluate(
            run_folder,
            path,
            out=folder,
            split=part if own else "all",  # type: ignore[arg-type]
            images=images,
            on_bad_label=data.on_bad_label,
        )
        write_json(folder / MEASURED, stamp)
    return read_kept(folder / "matches.npz")


def evaluation(run_folder: Path, part: str) -> dict[str, Any]:
    """The `evaluation.json` that `measure` has kept."""
    return read_json(run_folder / f"evaluation-{part}" / "evaluation.json")
