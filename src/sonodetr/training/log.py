"""What a training tells while it runs: metrics.jsonl, TensorBoard, lines and a progress bar."""

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
    TextColumn,
    TimeRemainingColumn,
)

from sonodetr.files import write_text

# Where there is no terminal for a progress bar, a line says this often how far the training is.
SECONDS_A_LINE = 60.0


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
        self._path = folder / "metrics.jsonl"
        self._first_step = self._step = step
        self._total_steps = total_steps
        self._started = self._told = time.monotonic()
        self._has_bar = active and self.console.is_terminal
        self._bar = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} "),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[state]}"),
            console=self.console,
            disable=not self._has_bar,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=step, rate="", state="")
        if active:
            self._cut(step)
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "TrainingLog":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self.active:
            self._board.close()

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int, state: str) -> None:
        """Move the progress bar to `step` and show `state` beside it."""
        now = time.monotonic()
        rate = f"{(step - self._first_step) / max(now - self._started, 1e-9):.2f} steps/s"
        self._step = step
        self._bar.update(self._task, completed=step, rate=rate, state=state)
        if not self._has_bar and now - self._told >= SECONDS_A_LINE:
            self.say(f"step {step} of {self._total_steps}  {rate}  {state}")
            self._told = now

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
