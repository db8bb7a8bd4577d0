"""What an experiment is to try, as its YAML file says it. Imports no torch."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pydantic import Field, JsonValue, model_validator

from sonodetr.bundled import model_folder
from sonodetr.config import Config, DataConfig, LossTermConfig, Section
from sonodetr.config_file import load_config, parse_values, read_yaml, with_weights_folder
from sonodetr.files import InputError, closest

Changes = dict[str, JsonValue]  # section.key -> value
Tried = tuple[JsonValue, ...]


class TeacherPlan(Section):
    """Where a teacher comes from: `config` and its `changes`, or `run`."""

    config: str = Field("", description="YAML file; the experiment trains it, with its own seed")
    changes: Changes = Field({}, description="to that config, as section.key: value")
    run: str = Field(
        "", description="finished run folder, bundled model, or folder of a Hugging Face detector"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "TeacherPlan":
        if bool(self.config) == bool(self.run):
            raise ValueError("give either config (to train it) or run (a finished one)")
        if self.run and self.changes:
            raise ValueError("changes are for a config; a finished run stays as it is")
        return self


class MethodPlan(Section):
    """A way to train the student."""

    teacher: str = Field("", description="name of a teacher; empty: none")
    takes: tuple[str, ...] = Field((), description="methods whose tuned numbers are used too")
    tune: dict[str, Tried | dict[str, Tried]] = Field(
        {}, description="one key and the values tried for it, or these by the name of the queries"
    )
    changes: Changes = Field({}, description="to the student's config, as section.key: value")
    queries: tuple[str, ...] = Field((), description="where it is tried; empty: everywhere")
    against: tuple[str, ...] = Field(
        (), description="methods it is compared to; empty: the baseline and the strongest"
    )

    @model_validator(mode="after")
    def _one_number(self) -> "MethodPlan":
        if len(self.tune) > 1:
            raise ValueError(
                f"tune has {len(self.tune)} keys ({', '.join(self.tune)}) but a method tunes one; "
                "make a method of each, and let the later ones take the earlier"
            )
        for key, tried in self.tune.items():
            for values in tried.values() if isinstance(tried, dict) else (tried,):
                texts = [json.dumps(value) for value in values]
                if not texts or len(set(texts)) < len(texts):
                    raise ValueError(
                        f"tune {key} {list(values)}: give different values, one or more"
                    )
        return self

    @property
    def key(self) -> str:
        """What is tuned; empty: nothing."""
        return next(iter(self.tune), "")

    def values(self, queries: str) -> Tried:
        """What is tried for it in a setting of the queries."""
        tried = self.tune.get(self.key, ())
        return tried[queries] if isinstance(tried, dict) else tried


@dataclass(frozen=True)
class Unit:
    """One training that a plan asks for.

    Attributes:
        queries: setting of the student; None for a teacher.
        method: its name, or that of a teacher.
        seed: of the training; a teacher has that of its config.
        value: tried for what the method tunes; None: the best one, or nothing is tuned.
    """

    queries: str | None
    method: str
    seed: int = 0
    value: JsonValue = None


class Plan(Section):
    """A whole experiment (docs/experiment.md). Paths are relative to the working folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="folder of its results")
    question: str = Field("", description="what it is to answer, in a sentence")
    prepare: tuple[str, ...] = Field(
        (), description="commands that make the data; the report shows them"
    )
    student: str = Field(description="YAML file of the student")
    changes: Changes = Field({}, description="to it in every run, as section.key: value")
    teachers: dict[str, TeacherPlan] = Field({}, description="name -> teacher")
    queries: dict[str, Changes] = Field(
        {"": {}}, description="settings of the student in which all is tried: name -> changes"
    )
    methods: dict[str, MethodPlan] = Field(min_length=1, description="name -> method")
    baseline: str = Field(description="method to which all others are compared")
    strongest: tuple[str, ...] = Field(
        (), description="other baselines; the best of them is compared to as well"
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="the first one tunes")
    test: dict[str, str] = Field(
        {"standard": "test"},
        description="what is looked at when all is trained: name -> test, or a folder of the data",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Plan":
        if not self.queries or not self.test:
            raise ValueError("queries and test need one entry or more, or leave them out")
        allowed = all(0 <= seed < 2**32 for seed in self.seeds)
        if not allowed or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: give different ones, from 0 below 2^32")
        changes = [self.changes, *self.queries.values()]
        changes += [method.changes for method in self.methods.values()]
        if own := {"name", "seed", "distill.teacher"} & {key for each in changes for key in each}:
            raise ValueError(
                f"changes of {', '.join(sorted(own))} have no effect: runs are named here, and "
                "seeds and teachers have keys of their own"
            )
        for name, method in self.methods.items():
            self._check_method(name, method)
        try:
            TopologicalSorter({name: each.takes for name, each in self.methods.items()}).prepare()
        except CycleError as error:
            circle = " takes ".join(map(repr, reversed(error.args[1])))
            raise ValueError(f"method {circle}: a number cannot wait for itself") from None
        for key, names in (("baseline", (self.baseline,)), ("strongest", self.strongest)):
            for name in names:
                _check_known(key, name, "methods", self.methods)
        missing = set(self.queries) - set(self.queries_of(self.baseline))
        if missing:
            raise ValueError(
                f"baseline {self.baseline!r} is not tried with queries {', '.join(sorted(missing))}"
            )
        return self

    def _check_method(self, name: str, method: MethodPlan) -> None:
        where = f"method {name!r}:"
        if method.teacher:
            _check_known(f"{where} teacher", method.teacher, "teachers", self.teachers)
        for queries in method.queries:
            _check_known(f"{where} queries", queries, "queries", self.queries)
        for key, others in (("takes", method.takes), ("against", method.against)):
            for other in others:
                _check_known(f"{where} {key}", other, "methods", self.methods)
                if absent := set(self.queries_of(name)) - set(self.queries_of(other)):
                    raise ValueError(
                        f"{where} {key} {other!r}, which is not tried with queries "
                        f"{', '.join(sorted(absent))}; limit its queries too"
                    )
        for other in method.takes:
            if not self.methods[other].tune:
                raise ValueError(f"{where} takes {other!r}, which tunes nothing; leave it out")
        keys = [key for each in (*method.takes, name) for key in self.methods[each].tune]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{where} gets two numbers for {twice[0]}; take or tune only one")
        tried = method.tune.get(method.key)
        if isinstance(tried, dict) and (absent := set(self.queries_of(name)) - set(tried)):
            raise ValueError(
                f"{where} tune {method.key} has no values for queries "
                f"{', '.join(sorted(absent))}; add them, or one list for all"
            )
        used = [key for key in (*method.tune, *method.changes) if key.startswith("distill.")]
        if used and not method.teacher:
            raise ValueError(f"{where} sets {used[0]} but has no teacher; name one")

    def queries_of(self, method: str) -> tuple[str, ...]:
        """Settings in which a method is tried, in the order of the plan."""
        only = self.methods[method].queries
        return tuple(name for name in self.queries if not only or name in only)

    @property
    def configurations_tried(self) -> int:
        """How many were compared on validation data, so that readers can judge the luck in it."""
        return sum(
            len(method.values(queries))
            for name, method in self.methods.items()
            for queries in self.queries_of(name)
        )

    def units(self) -> Iterator[Unit]:
        """All trainings, each once: teachers, then for each queries tuning before repetition."""
        for name, teacher in self.teachers.items():
            if teacher.config:
                yield Unit(None, name)
        for queries in self.queries:
            names = [name for name in self.methods if queries in self.queries_of(name)]
            for name in names:
                for value in self.methods[name].values(queries):
                    yield Unit(queries, name, self.seeds[0], value)
            for seed in self.seeds:
                for name in names:
                    # One of those that tuned is the first seed of its method.
                    if not (self.methods[name].tune and seed == self.seeds[0]):
                        yield Unit(queries, name, seed)

    def data(self) -> DataConfig:
        """What students are trained and tested on.

        Raises:
            InputError: a key or value is not allowed.
        """
        return self.baseline_config().data

    def baseline_config(self) -> Config:
        """Of the baseline, first seed; what it tunes stands at its first value.

        Raises:
            InputError: a key or value is not allowed.
        """
        queries, baseline = next(iter(self.queries)), self.methods[self.baseline]
        numbers = {key: baseline.values(queries)[0] for key in baseline.tune}
        return self.student_config(queries, self.baseline, self.seeds[0], numbers)

    def teacher_config(self, name: str) -> Config:
        """Of a teacher that is to be trained.

        Raises:
            InputError: a key or value is not allowed.
        """
        teacher = self.teachers[name]
        return with_weights_folder(load_config(teacher.config, _words(teacher.changes)))

    def teacher_folder(self, name: str) -> Path:
        """Of a finished teacher: a folder, or a bundled model's.

        Raises:
            InputError: it is neither.
        """
        try:
            return model_folder(self.teachers[name].run)
        except InputError as error:
            raise InputError(f"teacher {name!r}: {error}") from None

    def student_config(
        self,
        queries: str,
        method: str,
        seed: int,
        numbers: Mapping[str, JsonValue],
        teacher: str = "",
    ) -> Config:
        """Of a run of a method.

        Args:
            numbers: what is tuned, by key.
            teacher: folder.

        Raises:
            InputError: a key or value is not allowed.
        """
        changes = self.changes | self.queries[queries] | self.methods[method].changes
        own: Changes = {"seed": seed, "distill.teacher": teacher}
        config = load_config(self.student, _words({**changes, **numbers, **own}))
        return with_weights_folder(config)


def load_plan(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Plan:
    """Read an experiment, apply `section.key=value` overrides, check every config it leads to.

    Raises:
        InputError: the file cannot be parsed, a key or value is not allowed, or names do not fit
            together; the line says which.
    """
    plan = parse_values(Plan, read_yaml(path, overrides), str(path))
    try:
        for name, teacher in plan.teachers.items():
            if teacher.config:
                plan.teacher_config(name)
            else:
                plan.teacher_folder(name)
        for name in plan.methods:
            for queries in plan.queries_of(name):
                _check_configs(plan, queries, name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return plan


def _check_configs(plan: Plan, queries: str, name: str) -> None:
    """What is not tuned yet stands at its first value."""
    method = plan.methods[name]
    where = f"method {name!r}" + (f" with queries {queries!r}" if queries else "")
    taken = {
        plan.methods[other].key: plan.methods[other].values(queries)[0] for other in method.takes
    }
    tried = [{method.key: value} for value in method.values(queries)] or [{}]
    for numbers in tried:
        try:
            config = plan.student_config(queries, name, 0, taken | numbers, method.teacher)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        terms = [term for _, term in config.distill if isinstance(term, LossTermConfig)]
        if method.teacher and not any(term.weight for term in terms):
            raise InputError(
                f"{where}: has a teacher but no loss of it a weight; "
                "set or tune for example distill.encoder.weight"
            )


def _check_known(where: str, name: str, kind: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{where} {name!r} is not among {kind}; {closest(name, known)}")


def _words(changes: Mapping[str, JsonValue]) -> list[str]:
    """As the command line takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]
