"""Each finished run is evaluated once on each part of the data, and what was found is kept."""

import hashlib
from pathlib import Path
from typing import Any

from sonodetr.evaluation.evaluate import evaluate
from sonodetr.evaluation.kept import Kept, read_kept
from sonodetr.files import InputError, read_json, write_json
from sonodetr.training.run import WEIGHTS
from sonodetr.types import PARTS

MEASURED = "measured.json"


def measure(run_folder: Path, data: str, part: str) -> Kept:
    """What a run's best weights found on a part of the data.

    The first call runs the model and keeps `evaluation.json`, `matches.npz` and the plot of
    precision and recall in `run_folder/evaluation-PART`; later ones read them. A call that was
    killed leaves nothing that a later one would take for finished, and weights that have changed
    since are measured anew.

    Args:
        run_folder: of a finished training.
        data: what the run was trained on, as `data.path` names it.
        part: "train", "validation" or "test" of the run's own division, "all", or a folder of
            `data` that is in no part of the division, such as "shifted".

    Raises:
        InputError: the run or the data cannot be used (see `evaluate`).
    """
    folder = run_folder / f"evaluation-{part}"
    stamp = _stamp(run_folder, data, part)
    if not ((folder / MEASURED).is_file() and read_json(folder / MEASURED) == stamp):
        (folder / MEASURED).unlink(missing_ok=True)
        own = part in PARTS or part == "all"
        evaluate(
            run_folder,
            data if own else f"{data}/{part}",
            out=folder,
            split=part if own else "all",  # type: ignore[arg-type]
        )
        write_json(folder / MEASURED, stamp)
    return read_kept(folder / "matches.npz")


def evaluation(run_folder: Path, part: str) -> dict[str, Any]:
    """The `evaluation.json` that `measure` has kept."""
    return read_json(run_folder / f"evaluation-{part}" / "evaluation.json")


def _stamp(run_folder: Path, data: str, part: str) -> dict[str, str]:
    """All that the figures depend on, for as long as the data and the code stay what they are."""
    weights = run_folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{run_folder}: has no {WEIGHTS}; finish its training first")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"weights_sha256": digest, "data": data, "part": part}
