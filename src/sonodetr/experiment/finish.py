"""What is looked at before an experiment's first training, and after its last."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sonodetr.config import Config
from sonodetr.evaluation.evaluate import units_of
from sonodetr.experiment.measure import part_path
from sonodetr.experiment.plan import Plan, Unit
from sonodetr.experiment.results import Row, check_enough
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.training.data import open_data
from sonodetr.training.run import CONFIG
from sonodetr.types import PARTS


def check_test_parts(plan: Plan) -> None:
    """Look, before days of training, whether there is what is to be tested on.

    Raises:
        InputError: a folder is missing, or there is too little in it to compare anything.
    """
    config = plan.baseline_config()
    data = config.data
    for part in plan.test.values():
        folder = part_path(data.path, part)
        there = folder == data.path or data.path.startswith("simulator:") or Path(folder).is_dir()
        if not there:
            raise InputError(
                f"test part {part!r}: {folder}: no such folder; make it, or name "
                f"{', '.join(PARTS)} or a folder in {data.path}"
            )
        seeds = () if data.split.by_folder else plan.seeds[1:]
        _check_enough(config, seeds, part, folder)


def _check_enough(config: Config, seeds: Sequence[int], part: str, folder: str) -> None:
    data = config.data
    if folder == data.path and part != "all":
        opened = open_data(config)
        videos, samples = opened.videos, getattr(opened.split, part)
        for seed in seeds:
            other = open_data(config.model_copy(update={"seed": seed})).split
            if getattr(other, part) != samples:
                raise InputError(
                    f"test part {part!r}: is another one with seed {seed} than with seed "
                    f"{config.seed}, so runs could not be compared; set data.split.seed, or divide "
                    "the data by folders (data.split.by_folder)"
                )
    else:
        videos = read(folder, on_bad_label=data.on_bad_label)
        samples = [(index, frame) for index, video in enumerate(videos) for frame in video.labels]
    objects = sum(int((~videos[index].labels[frame].crowd).sum()) for index, frame in samples)
    unit, of_frame = units_of(videos, np.array([index for index, _ in samples], np.int64))
    check_enough(part, objects, len(np.unique(of_frame)), unit)


def trained_rows(experiment: Experiment) -> list[Row]:
    """Of an experiment that is all trained: teachers that can be measured, then its methods."""
    plan = experiment.plan
    teachers = {name: experiment.to_measure(name) for name in plan.teachers}
    rows = [
        Row(None, name, (folder,))
        for name, folder in teachers.items()
        if (folder / CONFIG).is_file()  # else one of another library
    ]
    for queries in plan.queries:
        for name in plan.methods:
            if queries in plan.queries_of(name):
                units = [Unit(queries, name, seed) for seed in plan.seeds]
                runs = tuple(experiment.trained(unit) for unit in units)
                rows.append(Row(queries, name, runs, experiment.run(units[0]).numbers))
    return rows


def chosen_at_an_end(experiment: Experiment) -> list[str]:
    """A line for every number that was chosen at an end of what was tried: a better one may lie
    beyond."""
    lines = []
    for name, method in experiment.plan.methods.items():
        for queries in experiment.plan.queries_of(name):
            numbers = [each for each in method.values(queries) if isinstance(each, int | float)]
            if len(numbers) < 2 or isinstance(numbers[0], bool):
                continue
            best = experiment.tuned(queries, name)
            if best in (min(numbers), max(numbers)):
                where = f"{queries}, {name}" if queries else name
                end = "largest" if best == max(numbers) else "smallest"
                lines.append(f"{where}: {method.key} {best:g} is the {end} that was tried")
    return lines
