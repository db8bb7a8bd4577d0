"""Which trainings of a plan are done, which can be done now, and doing the next that is free.

Any number of processes may work on one folder, for one plan or for several: each takes a lock on
the run that it trains, which ends with the process. A run lies under its address, so that whoever
comes to the same one finds it; a killed one is resumed to the same bits.

    OUT/runs/SLUG-ADDRESS          run folders, as `train` leaves them
    OUT/runs/SLUG-ADDRESS.json     what the address is made of
    OUT/runs/SLUG-ADDRESS.log      what the training said
    OUT/targets/KEY                what teachers say of the data, for all students
    OUT/teachers/FINGERPRINT       copies of finished teachers, which are measured there
    OUT/locks/ADDRESS              held by whoever trains it
"""

import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from sonodetr.config import Config
from sonodetr.config_file import config_from_run
from sonodetr.experiment.address import (
    SHORT,
    address,
    code_address,
    data_address,
    facts_of,
    simulates,
    sources,
)
from sonodetr.experiment.plan import Plan, Unit
from sonodetr.export.folder import whole_folder
from sonodetr.files import InputError, write_json

SECONDS_BETWEEN_LOOKS = 1.0
# Of the student, what decides which maps are kept and on which grid.
_SHAPE = {"backbone", "encoder_layers", "decoder_layers", "num_heads"}
State = Literal["done", "running", "ready", "waiting"]


class Waiting(Exception):
    """What a unit is to be is not known before something else is trained, which this names."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        slug: its words, for people.
        config: without the name.
        numbers: config key -> what was tuned, for it or for methods that it takes.
        teacher: fingerprint; empty without one.
        address: of its result.
    """

    slug: str
    config: Config
    numbers: dict[str, JsonValue]
    teacher: str
    address: str


class Experiment:
    """The runs of a plan below a folder, which several experiments may share."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out = plan, out
        self._runs: dict[str, Run] = {}

    def run(self, unit: Unit) -> Run:
        """The run of a unit.

        Raises:
            Waiting: it depends on one that is not trained.
            InputError: data, weights or a teacher cannot be read.
        """
        key = repr(unit)  # a value may be a list, which has no hash
        if key not in self._runs:
            self._runs[key] = self._find(unit)
        return self._runs[key]

    def folder(self, run: Run) -> Path:
        """Where it lies, or is to lie; another experiment may have named it otherwise."""
        short = run.address[:SHORT]
        own = self.out / "runs" / f"{run.slug}-{short}"
        if own.is_dir():
            return own
        others = (path for path in self.out.glob(f"runs/*-{short}") if path.is_dir())
        return next(others, own)

    def finished(self, run: Run) -> bool:
        """Whether it is trained to the end."""
        return (self.folder(run) / "last.safetensors").is_file()

    def trained(self, unit: Unit) -> Path:
        """The folder of a unit that is done.

        Raises:
            Waiting: it is not.
        """
        run = self.run(unit)
        if not self.finished(run):
            raise Waiting(run.slug)
        return self.folder(run)

    def state(self, unit: Unit) -> State:
        """How far a unit is."""
        try:
            run = self.run(unit)
        except Waiting:
            return "waiting"
        if self.finished(run):
            return "done"
        if not self._lock(run).exists():
            return "ready"
        # Shared, so that one who looks is not taken by another for one who trains.
        with held(self._lock(run), fcntl.LOCK_SH) as free:
            return "ready" if free else "running"

    def tuned(self, queries: str, method: str) -> JsonValue:
        """The value with the best validation AP, the first of equals.

        Raises:
            Waiting: one is not trained.
        """
        values, seed = self.plan.methods[method].values(queries), self.plan.seeds[0]
        try:
            folders = [self.trained(Unit(queries, method, seed, value)) for value in values]
        except Waiting:
            raise Waiting(f"the tuning of {method}") from None
        return max(zip(map(validation_ap, folders), values, strict=True), key=itemgetter(0))[1]

    def teacher(self, name: str) -> Path:
        """The folder of a teacher.

        Raises:
            Waiting: it is not trained.
        """
        if self.plan.teachers[name].run:
            return self.plan.teacher_folder(name)
        try:
            return self.trained(Unit(None, name))
        except Waiting:
            raise Waiting(f"teacher {name}") from None

    def to_measure(self, name: str) -> Path:
        """The folder of a teacher into which the experiment may write what it finds.

        A finished one is copied: its own folder may be the package's or somebody else's.

        Raises:
            Waiting: it is not trained.
            InputError: the copy cannot be written.
        """
        folder = self.teacher(name)
        if not self.plan.teachers[name].run or not (folder / "config.yaml").is_file():
            return folder  # its own, or of another library
        copy = self.out / "teachers" / _fingerprint(str(folder))[:SHORT]
        if not copy.is_dir():
            copy_run(folder, copy)
        return copy

    def work(self) -> None:
        """Train what is ready, one after another, until all is done.

        Waits while other processes train what the rest needs.

        Raises:
            InputError: a run cannot be trained; the line names it.
        """
        while left := [unit for unit in self.plan.units() if self.state(unit) != "done"]:
            # After each one, more may be ready that comes before the rest.
            ready = (self.run(unit) for unit in left if self.state(unit) == "ready")
            if not any(self.train(run) for run in ready):
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def train(self, run: Run) -> bool:
        """Train a run; False: another process does, or has.

        Raises:
            InputError: it cannot be trained; the line names it.
        """
        with held(self._lock(run)) as own:
            if not own or self.finished(run):
                return False
            train_run(run, self.folder(run))
            return True

    def _find(self, unit: Unit) -> Run:
        plan, numbers, teacher = self.plan, dict[str, JsonValue](), ""
        if unit.queries is None:
            words, config = ["teacher", unit.method], plan.teacher_config(unit.method)
            teacher = config.distill.teacher  # which it may have itself
        else:
            method = plan.methods[unit.method]
            for name in (*method.takes, *([unit.method] if unit.value is None else [])):
                if key := plan.methods[name].key:
                    numbers[key] = self.tuned(unit.queries, name)
            if unit.value is not None:
                numbers[method.key] = unit.value
            teacher = str(self.teacher(method.teacher)) if method.teacher else ""
            config = plan.student_config(unit.queries, unit.method, unit.seed, numbers, teacher)
            words = [unit.queries, unit.method, *map(_word, numbers.values()), f"seed{unit.seed}"]
        fingerprint = _fingerprint(teacher) if teacher else ""
        if teacher and config.data.augment.views:
            cache = str(self.out / "targets" / _targets_key(config, fingerprint))
            distill = config.distill.model_copy(update={"cache": cache})
            config = config.model_copy(update={"distill": distill})
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-")
        return Run(slug, config, numbers, fingerprint, address(facts_of(config, fingerprint)))

    def _lock(self, run: Run) -> Path:
        return self.out / "locks" / run.address[:SHORT]


def train_run(run: Run, folder: Path) -> None:
    """Train a run in its folder, from its checkpoint if there is one.

    Raises:
        InputError: it cannot be trained; the line names it.
    """
    from sonodetr.training.fit import train

    begun = (folder / "config.yaml").is_file()  # perhaps with other neutral settings
    config = config_from_run(folder) if begun else run.config
    # Whose name is another's would train elsewhere, and be begun here again and again.
    config = config.model_copy(update={"name": folder.name})
    facts, told = (folder.with_name(folder.name + ending) for ending in (".json", ".log"))
    write_json(facts, facts_of(run.config, run.teacher))
    with told.open("a", encoding="utf-8") as log:
        try:
            with redirect_stdout(log), redirect_stderr(log):
                train(config, folder.parent, resume=folder.is_dir())
        except InputError as error:
            if not folder.is_dir():  # refused before it began
                facts.unlink()
                told.unlink()
            raise InputError(f"{folder.name}: {error}") from None


def copy_run(run: Path, new: Path) -> None:
    """Copy a run folder, whole or not at all; without what only a resume needs, and what was found.

    Raises:
        InputError: it cannot be written.
    """
    left_out = shutil.ignore_patterns("checkpoint.*", "evaluation-*")
    with whole_folder(new) as part:
        shutil.copytree(run, part, ignore=left_out, dirs_exist_ok=True)


def validation_ap(folder: Path) -> float:
    """Of the best weights of a finished run; 0 where it found nothing."""
    from sonodetr.training.run import read_info

    return float(read_info(folder).validation["ap"] or 0.0)


@cache
def _fingerprint(teacher: str) -> str:
    from sonodetr.training.teachers import open_teacher

    return open_teacher(teacher).fingerprint


def _targets_key(config: Config, teacher: str) -> str:
    """Short hash of all that a teacher's kept answers depend on.

    They are the same for all seeds, labels and weights of losses. Batches matter, as the last bits
    of an answer may depend on how many clips are asked about together.
    """
    data = config.data
    facts = [
        data.model_dump(mode="json", exclude={"path", "images", "on_bad_label", "labelled"}),
        data_address(data.path, data.images, data.on_bad_label),
        config.seed if data.split.seed is None and not data.split.by_folder else None,
        config.train.batch_size,
        config.model.model_dump(mode="json", include=_SHAPE),
        {
            name: [term.weight > 0, getattr(term, "layers", None)]
            for name in ("encoder", "decoder", "cross", "memory")
            for term in [getattr(config.distill, name)]
        },
        config.distill.model_dump(mode="json", include={"heads", "time"}),
        teacher,
        data_address(data.unlabelled, "", "skip") if data.unlabelled else None,
        code_address(sources(), teacher=True, simulated=simulates(data)),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:SHORT]


def _word(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@contextmanager
def held(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Hold a lock that ends with the process; False: another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
