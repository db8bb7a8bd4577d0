"""Trainings in processes of their own, and ways to kill or change them from within.

They are forked from a server that has loaded torch, since loading it takes seconds. Not from the
test process itself: threads that it may have started would be missing in the copy.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import nn

from sonodetr.files import InputError
from sonodetr.model.dense import FineMemory
from sonodetr.training import fit, validate
from sonodetr.training.fit import Trainer, train

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["sonodetr.training.fit", "torch._dynamo", "hotcoco"])


class Run:
    """A training in a process of its own; use the fixture `start`."""

    def __init__(self, said, *work):
        self._said = said
        self.process = _SERVER.Process(target=_run, args=(said, *work))
        self.process.start()

    def wait(self) -> int:
        """The exit code; -9 where it was killed."""
        give_up = time.monotonic() + 120
        while self.process.exitcode is None:  # join would also wait for orphaned workers
            assert time.monotonic() < give_up, "still running: " + self.said()
            time.sleep(0.02)
        return self.process.exitcode

    def said(self) -> str:
        """What it wrote to standard output and error so far."""
        return self._said.read_text()


def _run(said, config, out, resume, changes, environment):
    os.setsid()
    # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(environment, OMP_NUM_THREADS="1")  # accelerate heeds it too
    multiprocessing.set_start_method("fork", force=True)  # of workers: not the server's own
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    code = 0
    try:
        for change in changes:
            change()
        train(config, out, resume=resume)
    except InputError as error:  # as the command line answers it
        print(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def contents(folder):
    """The files of a run that the seed decides."""
    names = ("model.safetensors", "last.safetensors", "checkpoint.safetensors", "metrics.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


# Changes made in the process before it trains; they are handed over by name, with their values.


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(step, place="_count"):
    """Kill the process when it has called `Trainer.place` at `step`."""
    method = getattr(Trainer, place)

    def call(self, *values):
        result = method(self, *values)
        if self.progress.step == step:
            die()
        return result

    setattr(Trainer, place, call)


def die_in(name, number):
    """Kill the process in the middle of the given call of `fit.name`: the file is half there."""
    method, calls = getattr(fit, name), []

    def half(path, *values):
        calls.append(path)
        if len(calls) == number:
            path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}").write_bytes(b"half")
            die()
        return method(path, *values)

    setattr(fit, name, half)


def stop_at_next_epoch():
    """As if patience had run out."""
    Trainer._validation_due = lambda self: setattr(self.progress, "stopped", True)


def fill_disk_at_second_checkpoint():
    save = fit.save_checkpoint

    def limited(path, *values):
        if path.is_file():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save(path, *values)

    fit.save_checkpoint = limited


def keep_state(folder, step):
    """Each process stores its weights, gradients and logged values after `step` steps."""
    count = Trainer._count

    def call(self, values):
        count(self, values)
        if self.progress.step == step:
            tensors = {f"model.{k}": v for k, v in self.plain_model.state_dict().items()}
            tensors |= {
                f"gradient.{k}": v.grad
                for k, v in self.plain_model.named_parameters()
                if v.grad is not None
            }
            tensors |= {f"value.{k}": torch.tensor(v) for k, v in values.items()}
            tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
            save_file(tensors, folder / f"{self.processes}-{self.rank}.safetensors")

    Trainer._count = call


def keep_statistics_of_proposals():
    """The one batch norm outside the backbone takes its stored statistics."""
    FineMemory.train = lambda self, mode=True: nn.Module.train(self, False)


def count_detections(expected):
    """The frames of all processes together must be those of the validation, each once."""
    match, gather = fit.match, validate.gather_object

    def checked(videos, detections, frames):
        assert set(detections) == {(videos[v].key, f) for v, f in frames}
        return match(videos, detections, frames)

    def counted(found):
        everything = gather(found)
        assert len(everything) == expected
        return everything

    fit.match, validate.gather_object = checked, counted
