"""What a training tells while it runs: metrics.jsonl, TensorBoard, a progress bar, two pictures."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sonodetr.files import write_text


class TrainingLog:
    """Opens the log of a run at a step; what a killed run had logged beyond it is cut off.

    Args:
        folder: the run folder.
        total_steps: of the whole training.
        step: steps already done.
        active: False for all processes but the first, which then say nothing.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, *, active: bool) -> None:
        self.active, self.console = active, Console(stderr=True, quiet=not active)
        self._path, self._started, self._first_step = (
            folder / "metrics.jsonl",
            time.monotonic(),
            step,
        )
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not active,
        )
        self._task = self.progress.add_task(
            "train", total=total_steps, completed=step, rate="", state=""
        )
        if active:
            self._cut(step)
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "TrainingLog":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.active:
            self._board.close()

    def advance(self, step: int, state: str) -> None:
        """Move the progress bar to `step` and show `state` beside it."""
        seconds = time.monotonic() - self._started
        rate = (step - self._first_step) / seconds if seconds > 0 else 0.0
        self.progress.update(self._task, completed=step, rate=f"{rate:.2f} steps/s", state=state)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and its numbers to TensorBoard."""
        if not self.active:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def _cut(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                break  # the line the killed run was writing
        write_text(self._path, "".join(kept))
