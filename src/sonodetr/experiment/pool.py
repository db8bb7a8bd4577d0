"""Processes on this machine that share the trainings of an experiment, and one view of them all."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from sonodetr.experiment.plan import Plan
from sonodetr.experiment.view import View
from sonodetr.experiment.work import SECONDS_BETWEEN_LOOKS, Experiment
from sonodetr.files import InputError


def train_all(plan: Plan, out: Path, workers: int, threads: int) -> None:
    """Train all that is missing, with `workers` processes of `threads` threads each.

    Raises:
        InputError: a run cannot be trained, or a process was killed; the others are stopped, and go
            on from their last checkpoints when it is started again.
    """
    with View(Experiment(plan, out)) as view:
        if not view.refresh():
            return
        # Started anew, not forked: threads are counted before torch is loaded.
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        with (
            _thread_count(threads),
            ProcessPoolExecutor(workers, context, _begin, (threads, theirs)) as pool,
        ):
            working = {pool.submit(_work, plan, out) for _ in range(workers)}
            try:
                while working:
                    ended, working = wait(working, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                    view.refresh()
                    for each in ended:
                        each.result()
            except BrokenProcessPool:
                raise InputError(
                    "a process that trains was ended from outside, most often for lack of memory; "
                    "lower --workers and start again, it goes on where it was"
                ) from None
            finally:
                ours.close()  # which ends them all


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    """For the processes that are started within."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin(threads: int, theirs: Connection) -> None:
    """What each process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it ends it
    threading.Thread(target=_end_when_closed, args=(theirs,), daemon=True).start()
    import torch

    import sonodetr.training.fit  # noqa: F401 - what trains is what the addresses are made of

    torch.set_num_threads(threads)


def _end_when_closed(theirs: Connection) -> None:
    """End with the process that started this one, or when that says so, whatever is going on:
    a training goes on from its checkpoint."""
    theirs.poll(None)
    os._exit(1)


def _work(plan: Plan, out: Path) -> None:
    Experiment(plan, out).work()
