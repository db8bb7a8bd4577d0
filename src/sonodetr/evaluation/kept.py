"""What an evaluation counted its figures from, on disk: any figure can be counted anew, and two
models compared on the same draws, without running them again."""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from sonodetr.evaluation.instruments import Arrivals, Comparison, Sightings, Steps
from sonodetr.evaluation.matches import Matches
from sonodetr.files import InputError, existing_file, whole_file

_TABLES: dict[str, Any] = {"sightings": Sightings, "arrivals": Arrivals, "steps": Steps}
_OF_MATCHES = ("video", "objects", "frame", "label", "scores", "found", "ignored")


@dataclass(frozen=True)
class Kept:
    """A model's answers on labelled frames, already compared with the labels.

    Attributes:
        recording: `[frames]` key of the recording of each evaluated frame.
        frame_index: `[frames]` its position there.
        unit: `[frames]` what is drawn with it in a bootstrap: its patient, or its recording.
        unit_name: "patient", "recording" or "image".
        threshold: the model's own, at which instruments were compared.
        matches: detections and objects; its `coco` figures are not kept.
        instruments: tips and lines, or None where there were none to compare.
    """

    recording: Shaped[np.ndarray, " frames"]
    frame_index: Int64[np.ndarray, " frames"]
    unit: Shaped[np.ndarray, " frames"]
    unit_name: str
    threshold: float
    matches: Matches
    instruments: Comparison | None


def write_kept(path: Path, kept: Kept) -> None:
    """Write as `.npz` without pickled objects, whole or not at all."""
    arrays: dict[str, Any] = {
        f"matches.{name}": getattr(kept.matches, name) for name in _OF_MATCHES
    }
    facts: dict[str, Any] = {
        "unit_name": kept.unit_name,
        "threshold": kept.threshold,
        "classes": kept.matches.class_names,
        "instruments": None,
    }
    if (found := kept.instruments) is not None:
        facts["instruments"] = {
            "classes": found.class_names,
            "tip_unit": found.tip_unit,
            "no_spacing": found.no_spacing,
        }
        arrays |= {"instruments.empty": found.empty, "instruments.shown": found.shown}
        for table in _TABLES:
            columns = getattr(found, table)._asdict()
            arrays |= {f"{table}.{name}": column for name, column in columns.items()}
    arrays |= {name: getattr(kept, name) for name in ("recording", "frame_index", "unit")}
    arrays["facts"] = np.array(json.dumps(facts))
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_kept(path: Path) -> Kept:
    """Read what `write_kept` wrote.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    try:
        with np.load(existing_file(path), allow_pickle=False) as file:
            arrays = dict(file)
        facts = json.loads(str(arrays["facts"]))
        matches = Matches(
            tuple(facts["classes"]),
            **{name: arrays[f"matches.{name}"] for name in _OF_MATCHES},
            coco={},
        )
        return Kept(
            arrays["recording"],
            arrays["frame_index"],
            arrays["unit"],
            facts["unit_name"],
            facts["threshold"],
            matches,
            _instruments(facts["instruments"], arrays),
        )
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not an evaluation's matches ({type(error).__name__}); delete it, and the "
        "evaluation is made again"
    )


def _instruments(facts: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> Comparison | None:
    if facts is None:
        return None
    tables = {
        table: kind(**{name: arrays[f"{table}.{name}"] for name in kind._fields})
        for table, kind in _TABLES.items()
    }
    return Comparison(
        class_names=tuple(facts["classes"]),
        tip_unit=facts["tip_unit"],
        no_spacing=facts["no_spacing"],
        **tables,
        empty=arrays["instruments.empty"],
        shown=arrays["instruments.shown"],
    )
