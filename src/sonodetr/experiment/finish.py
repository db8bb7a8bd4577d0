"""From a plan whose trainings are all done to what is reported."""

from pathlib import Path

from pydantic import JsonValue

from sonodetr.experiment.plan import Unit
from sonodetr.experiment.results import Finished, Row
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError


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
    student = plan.student_config(next(iter(plan.queries)), plan.baseline, plan.seeds[0], {})
    return Finished(
        name=plan.name,
        question=plan.question,
        data=student.data.path,
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
