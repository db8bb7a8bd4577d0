"""One view of all trainings of an experiment, on standard error."""

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

from sonodetr.config_file import config_from_run
from sonodetr.experiment.work import Experiment, validation_ap


class View:
    """A bar for the whole and one for each running training; lines where there is no terminal.

    Args:
        total: trainings of the experiment.
        done: of these.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._whole = self._bars.add_task("all", total=total, completed=done, unit="trainings")
        self._running: dict[Path, TaskID] = {}

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

    def begin(self, folder: Path) -> None:
        """A training has begun, or goes on."""
        if folder in self._running:
            return
        self._running[folder] = self._bars.add_task(f"  {folder.name}", total=None, unit="epochs")
        if not self.console.is_terminal:
            self._say(f"train {folder}")

    def end(self, folder: Path) -> None:
        """A training is done."""
        if folder in self._running:
            self._bars.remove_task(self._running.pop(folder))
        self.done += 1
        self._say(
            f"{self.done} of {self.total}  {folder.name}  validation AP {validation_ap(folder):.3f}"
        )

    def refresh(self) -> None:
        """Look how far they are."""
        self._bars.update(self._whole, completed=self.done)
        if self.console.is_terminal:
            for folder, task in self._running.items():
                epochs = epochs_done(folder)
                if epochs is not None:
                    self._bars.update(task, completed=epochs[0], total=epochs[1])

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def epochs_done(folder: Path) -> tuple[int, int] | None:
    """Epochs of a training that are over, and all of them; None while it has not begun."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    epoch = 0
    for line in reversed(lines):
        try:
            epoch = round(json.loads(line)["epoch"])
            break
        except (json.JSONDecodeError, KeyError):
            continue  # a validation, or a line that is being written
    return epoch, config_from_run(folder).train.epochs


def list_units(experiment: Experiment) -> list[dict[str, Any]]:
    """Every training of a plan in plain values: what it is, its state, and how far it came."""
    rows = []
    for unit in experiment.plan.units():
        state, run = experiment.state(unit)
        row = asdict(unit) | {"state": state}
        if isinstance(run, str):
            row["waits_for"] = run
        else:
            folder = experiment.folder(run)
            row |= {"run": str(folder), "epochs": epochs_done(folder)}
            row["validation_ap"] = validation_ap(folder) if state == "done" else None
        rows.append(row)
    return rows


def print_units(rows: list[dict[str, Any]]) -> None:
    """One line for each of `list_units`."""
    for row in rows:
        if row["state"] == "done":
            far = f"AP {row['validation_ap']:.3f}"
        elif "waits_for" in row:
            far = ""
        else:
            far = "{} of {}".format(*row["epochs"]) if row["epochs"] else ""
        print(f"{row['state']:8} {far:10} {_title(row)}")


def _title(row: dict[str, Any]) -> str:
    if "run" in row:
        return Path(row["run"]).name
    value = "" if row["value"] is None else f", {row['value']}"
    queries = "" if not row["queries"] else f"{row['queries']}, "
    return f"{queries}{row['method']}{value}, seed {row['seed']}: waits for {row['waits_for']}"
