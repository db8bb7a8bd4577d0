"""The trainings of an experiment as tasks of a Ray cluster that is there already.

All machines must see the same files under the same paths (a shared folder), have the same code, and
lock files there as one machine does. A task whose process or machine is lost is given to another,
which goes on from the last checkpoint.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonodetr.experiment.plan import Plan, Unit
from sonodetr.experiment.view import View
from sonodetr.experiment.work import SECONDS_BETWEEN_LOOKS, Experiment, Run, Waiting
from sonodetr.files import InputError

_RETRIES = 5
_SECONDS_TO_ANSWER = 10.0


def train_on_ray(plan: Plan, out: Path, address: str, threads: int) -> None:
    """Train all that is missing, as many runs at a time as the cluster has room for.

    Args:
        address: of the cluster, as `ray.init` takes it: "auto", "HOST:PORT" or "ray://HOST:PORT".
        threads: processor cores of each run; with GPUs in the cluster also one of these.

    Raises:
        InputError: there is no such cluster, its machines do not see the same files or code, or a
            run cannot be trained.
    """
    experiment = Experiment(plan, out.absolute())
    with View(experiment) as view:
        if view.refresh():
            with _connected(address) as ray:
                _train_all(ray, experiment, threads, view)


def _train_all(ray: Any, experiment: Experiment, threads: int, view: View) -> None:
    plan, out = experiment.plan, experiment.out
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(_train).options(num_cpus=threads, num_gpus=gpus, max_retries=_RETRIES)
    given: dict[Any, Run] = {}
    addresses: set[str] = set()
    while view.refresh():
        for unit in plan.units():
            if experiment.state(unit) not in ("ready", "running"):
                continue
            run = experiment.run(unit)
            if run.address not in addresses:
                addresses.add(run.address)
                given[task.remote(plan, out, Path.cwd(), unit, run.address, threads)] = run
        while done := ray.wait([*given], timeout=0)[0]:
            _check(ray, done[0], given.pop(done[0]).slug)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _check(ray: Any, answer: Any, name: str) -> None:
    """What a task has to say."""
    try:
        wrong = ray.get(answer)
    except ray.exceptions.RayTaskError:
        raise  # a defect, with its traceback
    except ray.exceptions.RayError as error:
        raise InputError(
            f"{name}: the cluster lost it {_RETRIES + 1} times ({type(error).__name__}); "
            "start again, it goes on where it was"
        ) from None
    if wrong:
        raise InputError(wrong)


def _train(plan: Plan, out: Path, place: Path, unit: Unit, address: str, threads: int) -> str:
    """Runs on a machine of the cluster; what is wrong, or nothing."""
    import torch

    import sonodetr.training.fit  # noqa: F401 - what trains is what the address is made of

    node = os.uname().nodename
    if not (place.is_dir() and out.is_dir()):
        return f"machine {node} does not see {place} or {out}; a folder that all share is needed"
    os.chdir(place)
    torch.set_num_threads(threads)
    other = f"machine {node} has other code or data; install the same everywhere"
    try:
        experiment = Experiment(plan, out)
        run = experiment.run(unit)
        if run.address != address:
            return other
        while not experiment.finished(run):
            if not experiment.train(run):  # another experiment does
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except Waiting:
        return other
    except InputError as error:
        return str(error)
    return ""


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    import ray

    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--ray {address}: no Ray cluster answers ({reason}); start one with ray start --head"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        OSError: nobody answers.
        ValueError: this is no address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    elif address != "auto":
        raise ValueError("an address is auto, HOST:PORT or ray://HOST:PORT")
