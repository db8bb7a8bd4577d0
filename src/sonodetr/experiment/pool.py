"""Processes on this machine that share the trainings of an experiment, and one view of them all."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from sonodetr.experiment.plan import Plan
from sonodetr.experiment.view import View
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError

_SECONDS_A_LOOK = 0.5


def train_all(plan: Plan, out: Path, workers: int, threads: int) -> None:
    """Train all that is missing, with `workers` processes of `threads` threads each.

    Raises:
        InputError: a run cannot be trained, or a process was killed; the others are stopped, and go
            on from their last checkpoints when it is started again.
    """
    experiment = Experiment(plan, out)
    states = [experiment.state(unit)[0] for unit in plan.units()]
    done = states.count("done")
    if done == len(states):
        return
    with _processes(plan, out, workers, threads) as running, View(len(states), done) as view:
        while running:
            for tells in wait([*running], _SECONDS_A_LOOK):
                assert isinstance(tells, Connection)
                try:
                    _heed(tells.recv(), view)
                except EOFError:  # it has ended
                    _check_end(running.pop(tells))
            view.refresh()


def _heed(message: tuple[str, str], view: View) -> None:
    """What a process says: "begun" or "done" and a folder; "wrong" and why; "failed" and where."""
    kind, text = message
    match kind:
        case "begun":
            view.begin(Path(text))
        case "done":
            view.end(Path(text))
        case "wrong":
            raise InputError(text)
        case _:
            raise RuntimeError(f"a training failed\n{text}")


def _check_end(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise InputError(
            f"a process that trains was ended from outside (exit code {process.exitcode}), most "
            "often for lack of memory; lower --workers and start again, it goes on where it was"
        )


@contextmanager
def _processes(
    plan: Plan, out: Path, workers: int, threads: int
) -> Iterator[dict[Connection, BaseProcess]]:
    """By what they tell. Started anew, not forked: threads are counted before torch is loaded."""
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    started: list[BaseProcess] = []
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_work, args=(plan, out, threads, theirs))
            process.start()
            theirs.close()
            running[ours] = process
            started.append(process)
        yield running
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        for process in started:
            process.kill()  # whatever it was doing goes on from its checkpoint
            process.join()


def _work(plan: Plan, out: Path, threads: int, tell: Connection) -> None:
    """What each process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    try:
        for folder, done in Experiment(plan, out).work():
            tell.send(("done" if done else "begun", str(folder)))
    except InputError as error:
        tell.send(("wrong", str(error)))
    except Exception:
        tell.send(("failed", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
