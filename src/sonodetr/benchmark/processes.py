"""The other side of `worker`: starting processes, and asking them in turns."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from sonodetr.files import InputError

# Threads that wait must not burn the processor: the next turn is another configuration's.
_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}


class Process:
    """A worker with its task; use it in a `with` block.

    Args:
        task: what `worker` takes.
        threads: that torch, and whatever else uses OpenMP, may use.
        name: of the configuration, for errors.

    Attributes:
        first: its answer when it was ready.

    Raises:
        InputError: the task cannot be done, or the process ended.
        ModuleNotFoundError: it needs a package that is not installed.
    """

    def __init__(self, task: dict[str, Any], threads: int, name: str) -> None:
        environment = os.environ | _QUIET | {"OMP_NUM_THREADS": str(threads)}
        self._name = name
        task = task | {"threads": threads, "started": time.monotonic()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sonodetr.benchmark.worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        try:
            self.first = self._answer()
        except BaseException:
            self.close(at_once=True)
            raise

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; that it gave no answer is said below
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise InputError(
                f"{self._name}: its process ended with exit code {code} while it was timed; "
                "see what it said above, or leave this configuration out"
            )
        answer: dict[str, Any] = json.loads(line)
        if answer.get("missing"):
            raise ModuleNotFoundError(answer["error"], name=answer["missing"])
        if "error" in answer:
            raise InputError(answer["error"])
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """End it: it stops where its orders end, and is killed where it does not, or `at_once`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(at_once=error is not None)
