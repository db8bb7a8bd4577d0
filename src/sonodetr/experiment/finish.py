"""From a plan whose trainings are all done to what is reported."""

from pathlib import Path

from pydantic import JsonValue

from sonodetr.experiment.plan import Plan, Unit
from sonodetr.experiment.results import Finished, Row
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError
from sonodetr.types import PARTS


def check_test_parts(plan: Plan) -> None:
    """Look, before days of training, whether there is what is to be tested on.

    Raises:
        InputError: a folder is missing.
    """
    data = _data(plan)
    for part in plan.test.values():
        known = part in (*PARTS, "all") or data.startswith("simulator:")
        if not known and not Path(data, part).is_dir():
            raise InputError(
                f"test part {part!r}: {Path(data, part)}: no such folder; make it, or name "
                f"{', '.join(PARTS)} or a folder in {data}"
            )


def _data(plan: Plan) -> str:
    numbers = {key: values[0] for key, values in plan.methods[plan.baseline].tune.items()}
    first = next(iter(plan.queries))
    return plan.student_config(first, plan.baseline, plan.seeds[0], numbers).data.path


def finished_experiment(experiment: Experiment, command: str) -> Finished:
    """What `results.collect` wants to know.

    Args:
        experiment: all of whose runs are trained.
        command: line that does everything again.

    Raises:
        InputError: a run is missing.
    """
    plan = experiment.plan
    rows = tuple(
        _row(experiment, queries, name)
        for queries in plan.queries
        for name in plan.methods
        if queries in plan.queries_of(name)
    )
    teachers = {name: experiment.teacher(name) for name in plan.teachers}
    missing = [name for name, folder in teachers.items() if folder is None]
    if missing:
        raise InputError(f"teacher {missing[0]!r} is not trained; start the experiment again")
    return Finished(
        name=plan.name,
        question=plan.question,
        data=_data(plan),
        test=plan.test,
        seeds=plan.seeds,
        baseline=plan.baseline,
        strongest=plan.strongest,
        teachers={name: folder for name, folder in teachers.items() if folder is not None},
        rows=rows,
        tried=plan.configurations_tried,
        again=(*plan.prepare, command),
        plan=plan.model_dump(mode="json", exclude_defaults=True),
    )


def _row(experiment: Experiment, queries: str, name: str) -> Row:
    plan = experiment.plan
    method = plan.methods[name]
    runs: list[Path] = []
    for seed in plan.seeds:
        state, run = experiment.state(Unit(queries, name, seed))
        if isinstance(run, str) or state != "done":
            raise InputError(f"{name}, seed {seed}: is {state}; start the experiment again")
        runs.append(experiment.folder(run))
    return Row(
        queries,
        name,
        tuple(runs),
        teacher=method.teacher,
        tuned=_numbers(experiment, queries, name),
        against=method.against,
    )


def _numbers(experiment: Experiment, queries: str, name: str) -> dict[str, JsonValue]:
    """What was chosen on validation data, for it and for what it takes."""
    methods = experiment.plan.methods
    return {
        methods[other].key: experiment.tuned(queries, other)
        for other in (*methods[name].takes, name)
        if methods[other].tune
    }


def chosen_at_an_end(experiment: Experiment) -> list[str]:
    """A line for every number that was chosen at an end of what was tried: a better one may lie
    beyond."""
    lines = []
    for name, method in experiment.plan.methods.items():
        numbers = [value for value in method.values if isinstance(value, int | float)]
        for queries in experiment.plan.queries_of(name):
            best = experiment.tuned(queries, name)
            if len(numbers) > 1 and best in (min(numbers), max(numbers)):
                where = f"{queries}, {name}" if queries else name
                end = "largest" if best == max(numbers) else "smallest"
                lines.append(f"{where}: {method.key} {best:g} is the {end} that was tried")
    return lines
