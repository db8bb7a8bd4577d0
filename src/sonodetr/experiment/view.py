"""One view of all trainings of an experiment, whoever does them, on standard error."""

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from sonodetr.experiment.work import Experiment, Run, Waiting, validation_ap


class View:
    """A bar for the whole and one for each running training; lines where there is no terminal."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        units = list(experiment.plan.units())
        self._left = [unit for unit in units if experiment.state(unit) != "done"]
        self._total = len(units)
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._whole = self._bars.add_task("all", total=self._total, unit="trainings")
        self._running: dict[str, TaskID] = {}  # by address

    def __enter__(self) -> "View":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def refresh(self) -> bool:
        """Look how far they are and say what is new; False where nothing is left to train."""
        for unit in [*self._left]:
            state = self._experiment.state(unit)
            if state == "waiting":
                continue
            run = self._experiment.run(unit)
            if state == "running":
                self._show(run)
            elif run.address in self._running:
                self._bars.remove_task(self._running.pop(run.address))
            if state == "done":
                self._left.remove(unit)
                folder = self._experiment.folder(run)
                done = f"{self._total - len(self._left)} of {self._total}"
                self._say(f"{done}  {folder.name}  validation AP {validation_ap(folder):.3f}")
        self._bars.update(self._whole, completed=self._total - len(self._left))
        return bool(self._left)

    def _show(self, run: Run) -> None:
        """A training that is running."""
        folder = self._experiment.folder(run)
        if run.address not in self._running:
            epochs = run.config.train.epochs
            bar = self._bars.add_task(f"  {folder.name}", total=epochs, unit="epochs")
            self._running[run.address] = bar
            if not self._console.is_terminal:
                self._say(f"train {folder}")
        if self._console.is_terminal:
            self._bars.update(self._running[run.address], completed=epochs_done(folder) or 0)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def epochs_done(folder: Path) -> int | None:
    """Epochs of a training that are over; None while it has not begun."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            return round(json.loads(line)["epoch"])
        except (json.JSONDecodeError, KeyError):
            continue  # a validation, or a line that is being written
    return 0


def list_units(experiment: Experiment) -> list[dict[str, Any]]:
    """Every training of a plan in plain values: what it is, its state, and how far it came."""
    rows = []
    for unit in experiment.plan.units():
        state = experiment.state(unit)
        row = asdict(unit) | {"state": state}
        try:
            run = experiment.run(unit)
        except Waiting as other:
            row["waits_for"] = str(other)
        else:
            folder = experiment.folder(run)
            epochs = epochs_done(folder)
            row["run"] = str(folder)
            row["epochs"] = None if epochs is None else (epochs, run.config.train.epochs)
            row["validation_ap"] = validation_ap(folder) if state == "done" else None
        rows.append(row)
    return rows


def print_units(rows: list[dict[str, Any]]) -> None:
    """One line for each of `list_units`."""
    for row in rows:
        if row["state"] == "waiting":
            words = (row["queries"], row["method"], row["value"], f"seed {row['seed']}")
            named = ", ".join(str(word) for word in words if word not in (None, ""))
            far, name = "", f"{named}: waits for {row['waits_for']}"
        else:
            far, name = "", Path(row["run"]).name
            if row["state"] == "done":
                far = f"AP {row['validation_ap']:.3f}"
            elif row["epochs"]:
                far = "{} of {}".format(*row["epochs"])
        print(f"{row['state']:8} {far:10} {name}")
