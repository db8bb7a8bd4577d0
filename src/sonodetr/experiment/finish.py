"""What is looked at before an experiment's first training, and after its last."""

from pathlib import Path

from sonodetr.experiment.measure import part_path
from sonodetr.experiment.plan import Plan, Unit
from sonodetr.experiment.results import Row
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError
from sonodetr.training.run import WEIGHTS
from sonodetr.types import PARTS


def check_test_parts(plan: Plan) -> None:
    """Look, before days of training, whether there is what is to be tested on.

    Raises:
        InputError: a folder is missing.
    """
    data = plan.data().path
    for part in plan.test.values():
        folder = part_path(data, part)
        if folder != data and not data.startswith("simulator:") and not Path(folder).is_dir():
            raise InputError(
                f"test part {part!r}: {folder}: no such folder; make it, or name "
                f"{', '.join(PARTS)} or a folder in {data}"
            )


def trained_rows(experiment: Experiment) -> list[Row]:
    """Of an experiment that is all trained: teachers that can be measured, then its methods."""
    plan = experiment.plan
    teachers = {name: experiment.teacher(name) for name in plan.teachers}
    rows = [
        Row(None, name, (folder,))
        for name, folder in teachers.items()
        if (folder / WEIGHTS).is_file()  # else one of another library
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
