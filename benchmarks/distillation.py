"""Does distillation pay? Students with and without teachers on needle-small, tuned and repeated.

    python benchmarks/distillation.py                     # train what is missing, then report
    python benchmarks/distillation.py --list              # validation AP through each training
    python benchmarks/distillation.py --report docs/results

The teachers are those of configs/needle-small.yaml and needle-3d.yaml; the plain student, its
budget (epochs and views) and the values tried stand below and in configs/needle-student.yaml. Every
method is tuned by one number on validation AP with seed 0, then trained with all seeds; the test
part is looked at once, by --report, when all are done. Finished runs are kept, killed ones resumed,
and several copies of this script share the work: each takes the next run that no other has. One
thread a copy is best (OMP_NUM_THREADS=1).
"""

import argparse
import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.config import Config
from sonodetr.config_file import load_config
from sonodetr.evaluation.evaluate import evaluate
from sonodetr.files import InputError, read_json, write_json
from sonodetr.training.fit import train
from sonodetr.training.run import provenance, read_info

CONFIG = "configs/needle-student.yaml"
SEEDS = (0, 1, 2)
QUERIES = {
    "anchor": (),
    "learned": (
        "model.queries=learned",
        "model.classification=softmax",
        "loss.classification=1",
    ),
}
TEACHERS = {"2D": "runs/needle-small", "3D": "runs/needle-3d"}
EPOCHS = 8  # of the student's config
RATES = ("3.5e-4", "7e-4", "1.4e-3", "2e-3")
WEIGHTS = ("3", "10", "30", "100")
OF_ANSWERS = ("0.1", "0.3", "1", "3")


@dataclass(frozen=True)
class Method:
    """A way to train the student.

    Attributes:
        teacher: "2D", "3D", or none.
        tuned: key of the number that is tuned; none where all is taken from other methods.
        values: tried for it.
        takes: names of the methods of the same queries whose tuned numbers are used too.
        fixed: further changes to the config.
        queries: settings in which it is tried.
    """

    teacher: str = ""
    tuned: str = ""
    values: tuple[str, ...] = ()
    takes: tuple[str, ...] = ("plain",)
    fixed: tuple[str, ...] = ()
    queries: tuple[str, ...] = ("anchor", "learned")


ATTENTION, DETECTIONS = "distill.encoder.weight", "distill.detections.weight"
CROSS, MEMORY = "distill.cross.weight", "distill.memory.weight"
CELLS = "distill.cells.weight"
ANCHOR = ("anchor",)  # learned queries have no proposals, and follow nobody's anchors
LONG = (f"train.epochs={2 * EPOCHS}",)
ALL = ("plain", "attention, 2D", "detections, 2D", "cells, 2D")
METHODS = {
    "plain": Method(tuned="train.learning_rate", values=RATES, takes=()),
    "attention, 2D": Method("2D", ATTENTION, WEIGHTS),
    "detections, 2D": Method("2D", DETECTIONS, OF_ANSWERS),
    "cells, 2D": Method("2D", CELLS, OF_ANSWERS, queries=ANCHOR),
    "attention, 3D": Method("3D", ATTENTION, WEIGHTS, queries=ANCHOR),
    "memory, 2D": Method("2D", MEMORY, WEIGHTS, queries=ANCHOR),
    "cross-attention, 2D": Method("2D", CROSS, WEIGHTS, queries=ANCHOR),
    "attention and detections, 2D": Method(
        "2D", takes=("plain", "attention, 2D", "detections, 2D")
    ),
    "attention and cells, 2D": Method(
        "2D", takes=("plain", "attention, 2D", "cells, 2D"), queries=ANCHOR
    ),
    "all, 2D": Method("2D", takes=ALL, queries=ANCHOR),
    "all, 3D": Method(
        "3D", takes=("plain", "attention, 3D", "detections, 2D", "cells, 2D"), queries=ANCHOR
    ),
    "attention of other frames, 2D": Method(
        "2D", takes=("plain", "attention, 2D"), fixed=("distill.shuffle=true",), queries=ANCHOR
    ),
    "plain, twice as long": Method(fixed=LONG, queries=ANCHOR),
    "all, 2D, twice as long": Method("2D", takes=ALL, fixed=LONG, queries=ANCHOR),
}
# Few labels, the other training recordings unlabelled: as many steps, and as many pictures in each.
for _percent in (5, 10, 25):
    _share = f"data.labelled={_percent / 100}"
    _epochs = EPOCHS * 100 // _percent
    _few = (_share, f"train.epochs={_epochs}", f"train.validate_epochs={_epochs // 4}")
    METHODS[f"plain, {_percent}% of labels"] = Method(fixed=_few, queries=ANCHOR)
    METHODS[f"all, 2D, {_percent}% of labels"] = Method(
        "2D",
        takes=ALL,
        fixed=(
            _share,
            f"train.epochs={_epochs // 2}",
            f"train.validate_epochs={_epochs // 8}",
            "train.batch_size=4",
            "distill.unlabelled_batch=4",
        ),
        queries=ANCHOR,
    )


@dataclass(frozen=True)
class Run:
    """One training: its name and the changes to the student's config."""

    name: str
    words: tuple[str, ...]

    def config(self) -> Config:
        # Copies of this script keep all cores busy: none is left to load data ahead.
        return load_config(CONFIG, (*self.words, "train.workers=0", f"name={self.name}"))


class Experiment:
    """All runs below a folder, in the order in which they can be done."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def tuned(self, queries: str, name: str) -> str | None:
        """The value of a method with the best validation AP; None while one is not done."""
        scores = {}
        for value in METHODS[name].values:
            run = self.run(queries, name, 0, value)
            if run is None or not self.finished(run):
                return None
            scores[value] = read_info(self.out / run.name).validation["ap"] or 0.0
        return max(scores, key=lambda value: scores[value])

    def run(self, queries: str, name: str, seed: int, value: str = "") -> Run | None:
        """A run of a method; None while what it builds on is not there."""
        method = METHODS[name]
        if method.teacher and not (Path(TEACHERS[method.teacher]) / "last.safetensors").is_file():
            return None
        words = [*QUERIES[queries], *method.fixed, f"seed={seed}", "distill.encoder.weight=0"]
        if method.teacher:
            words += [f"distill.teacher={TEACHERS[method.teacher]}"]
            # A cache holds the targets of one set of losses: maps, memory, cells where compared.
            tuned = [method.tuned, *(METHODS[other].tuned for other in method.takes)]
            kept = [key.split(".")[1] for key in (ATTENTION, CROSS, MEMORY, CELLS) if key in tuned]
            cache = "-".join(("targets", method.teacher, *kept))
            words += [f"distill.cache={self.out}/{cache}"]
        numbers = []
        for other in method.takes:
            best = self.tuned(queries, other)
            if best is None:
                return None
            words.append(f"{METHODS[other].tuned}={best}")
            numbers.append(best)
        if method.tuned:
            value = value or self.tuned(queries, name) or ""
            if not value:
                return None
            words.append(f"{method.tuned}={value}")
            numbers.append(value)
        slug = name.replace(", ", "-").replace("% of ", "-").replace(" ", "-")
        return Run("-".join((queries, slug, *numbers, str(seed))), tuple(words))

    def finished(self, run: Run) -> bool:
        return (self.out / run.name / "last.safetensors").is_file()

    def ready(self) -> Iterator[Run]:
        """Runs that can be done now and are not: tuning before repetition, anchors first."""
        for queries in QUERIES:
            mine = {name: each for name, each in METHODS.items() if queries in each.queries}
            tuning = [
                self.run(queries, name, 0, value)
                for name, each in mine.items()
                for value in each.values
            ]
            repeated = [self.run(queries, name, seed) for seed in SEEDS for name in mine]
            for run in (*tuning, *repeated):
                if run is not None and not self.finished(run):
                    yield run

    def work(self) -> None:
        """Do what is ready until nothing is."""
        while run := next((run for run in self.ready() if not _taken(self._lock(run))), None):
            with _held(self._lock(run)) as own:
                if own and not self.finished(run):
                    print(f"== {run.name}: {' '.join(run.words)}", file=sys.stderr, flush=True)
                    train(run.config(), self.out, resume=(self.out / run.name).is_dir())

    def _lock(self, run: Run) -> Path:
        return self.out / f"{run.name}.lock"


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process; False: another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _taken(path: Path) -> bool:
    with _held(path) as free:
        return not free


FIGURES = ("ap", "ap50", "ap75", "tip_error_median_mm", "tip_within_3_mm")


def measured(folder: Path, part: str, seed: int = 0) -> dict[str, Any]:
    """Figures of a run on a part of the data, measured once and kept in its folder."""
    path = folder / f"evaluation-{part}" / "evaluation.json"
    if not path.is_file():
        config = load_config(folder / "config.yaml")
        # The shifted recordings are in no part of the division: they are named by their folder.
        shifted = part == "shifted"
        data = f"{config.data.path}/shifted" if shifted else config.data.path
        evaluate(folder, data, out=path.parent, split="all" if shifted else "test", seed=seed)
    figures = read_json(path)["intervals"]["figures"]
    return {name: figures[name]["value"] for name in FIGURES}


def report(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Look at the test part and write the table; the experiment must be done."""
    rows = [
        {
            "queries": "anchor",
            "method": f"teacher {name}",
            "tuned": None,
            "runs": [path],
            "figures": {part: [measured(Path(path), part)] for part in ("test", "shifted")},
            "curve": [],
        }
        for name, path in TEACHERS.items()
    ]
    for queries in QUERIES:
        for name, method in METHODS.items():
            if queries not in method.queries:
                continue
            runs = [experiment.run(queries, name, seed) for seed in SEEDS]
            done = [experiment.out / run.name for run in runs if run and experiment.finished(run)]
            if len(done) < len(SEEDS):
                raise InputError(
                    f"{queries}, {name}: {len(done)} of {len(SEEDS)} runs are done; "
                    "run this script without --report first"
                )
            rows.append(
                {
                    "queries": queries,
                    "method": name,
                    "tuned": experiment.tuned(queries, name) if method.tuned else None,
                    "runs": [path.name for path in done],
                    "figures": {
                        part: [measured(path, part) for path in done]
                        for part in ("test", "shifted")
                    },
                    "curve": [curve(path) for path in done],
                }
            )
    result = {
        "config": load_config(CONFIG).model_dump(mode="json"),
        "seeds": SEEDS,
        "configurations_tried": sum(
            len(method.values) * len(method.queries) for method in METHODS.values()
        ),
        "rows": rows,
        "provenance": provenance(0),
    }
    write_json(folder / "distillation.json", result)
    return result


def curve(folder: Path) -> list[tuple[int, float]]:
    """Step and validation AP through a training."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [
        (entry["step"], entry["validation/AP"] or 0.0)
        for entry in entries
        if "validation/AP" in entry
    ]


def print_table(result: dict[str, Any]) -> None:
    """Mean and range over seeds; the share of the gap to the teacher is of mean test AP."""

    def mean(row: dict[str, Any], part: str, figure: str) -> float:
        return float(np.mean([each[figure] for each in row["figures"][part]]))

    def cell(row: dict[str, Any], part: str, figure: str) -> str:
        values = [each[figure] for each in row["figures"][part]]
        places = 1 if figure.endswith("mm") else 3
        text = f"{np.mean(values):.{places}f}"
        if len(values) > 1:
            text += f" ({min(values):.{places}f} to {max(values):.{places}f})"
        return text

    by_name = {(row["queries"], row["method"]): row for row in result["rows"]}
    print(
        "| queries | method | tuned | AP | AP50 | AP75 | tip error, mm | AP, shifted | gap closed |"
    )
    print("|" + "---|" * 9)
    for (queries, name), row in by_name.items():
        method = METHODS.get(name)
        gap = ""
        if method is not None and name != "plain":
            plain = mean(by_name[queries, "plain"], "test", "ap")
            teacher = mean(by_name["anchor", f"teacher {method.teacher or '2D'}"], "test", "ap")
            gap = f"{(mean(row, 'test', 'ap') - plain) / (teacher - plain):.0%}"
        figures = [
            cell(row, "test", figure) for figure in ("ap", "ap50", "ap75", "tip_error_median_mm")
        ]
        words = [queries, name, row["tuned"] or "", *figures, cell(row, "shifted", "ap"), gap]
        print("| " + " | ".join(words) + " |")
    print(f"{result['configurations_tried']} configurations were tried on validation data.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"), help="run folders")
    parser.add_argument("--list", action="store_true", help="what is done and what can be done")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="where the results go")
    options = parser.parse_args()
    experiment = Experiment(options.out)
    try:
        if options.list:
            for path in sorted(options.out.glob("*/last.safetensors")):
                through = "  ".join(f"{ap:.3f}" for _, ap in curve(path.parent))
                print(f"{through}  {path.parent.name}")
            for run in experiment.ready():
                print(f"ready  {run.name}")
            return 0
        if options.report is None:
            experiment.work()
            return 0
        result = report(experiment, options.report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(result)
    print(json.dumps({"rows": [{**row, "curve": None} for row in result["rows"]]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
