"""Experiments that are killed, shared and stopped end with the same bits as undisturbed ones."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_plans import write_data, write_plan

from sonodetr.experiment.finish import trained_rows
from sonodetr.experiment.plan import load_plan
from sonodetr.experiment.results import collect
from sonodetr.experiment.work import Experiment
from sonodetr.files import read_json

# Forked from a server that has loaded torch, since loading it takes seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["sonodetr.training.fit", "torch._dynamo", "hotcoco"])
DECIDED = ("model.safetensors", "last.safetensors", "checkpoint.safetensors", "metrics.jsonl")


@pytest.fixture
def path(tmp_path):
    return write_plan(tmp_path, write_data(tmp_path / "data"))


@pytest.fixture
def worker(path):
    """Starts a process that works on a folder; killed at the end."""
    started = []

    def begin(out):
        process = _SERVER.Process(target=_work, args=(path, out))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def _work(path, out):
    torch.set_num_threads(1)
    Experiment(load_plan(path), out).work()


def results(out):
    """What is in every run, by name, but for what was timed."""
    runs = {path.name: path for path in (out / "runs").iterdir() if path.is_dir()}
    return {
        name: {file: (folder / file).read_bytes() for file in DECIDED} | facts(folder)
        for name, folder in runs.items()
    }


def facts(folder):
    info = read_json(folder / "run.json")
    return {"threshold": info["threshold"], "validation": info["validation"], "step": info["step"]}


def table(path, out):
    """results.json, but for what was timed."""
    plan = load_plan(path)
    collect(plan, trained_rows(Experiment(plan, out)), out / "results", "again")
    result = read_json(out / "results" / "results.json")
    del result["timed"]
    return result


def test_killed_at_random_moments_the_results_are_the_same_bits(
    worker, path, tmp_path, monkeypatch
):
    undisturbed = worker(tmp_path / "through")
    undisturbed.join(120)
    assert undisturbed.exitcode == 0
    expected = results(tmp_path / "through")
    assert len(expected) == 1 + 4 + 2
    chance, deaths = random.Random(5), 0
    for _ in range(10):
        two = [worker(tmp_path / "killed") for _ in range(2)]
        time.sleep(chance.uniform(0.2, 1.2))
        victim = chance.choice(two)
        victim.kill()
        time.sleep(chance.uniform(0.0, 0.4))
        for process in two:
            process.kill()
            process.join(60)
            deaths += process.exitcode == -signal.SIGKILL
    assert deaths >= 5  # on a fast machine the last ones find nothing left to do
    last = worker(tmp_path / "killed")
    last.join(120)
    assert last.exitcode == 0
    found = results(tmp_path / "killed")
    assert found.keys() == expected.keys()
    for name, files in expected.items():
        for file, content in files.items():
            assert found[name][file] == content, (name, file)
    monkeypatch.setattr("sonodetr.experiment.results.RESAMPLES", 99)
    assert table(path, tmp_path / "killed") == table(path, tmp_path / "through")


def test_two_workers_share_the_runs_and_train_none_twice(worker, tmp_path):
    out = tmp_path / "shared"
    both = [worker(out) for _ in range(2)]
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    logs = [file.read_text() for file in (out / "runs").glob("*.log")]
    assert len(logs) == 7
    for said in logs:
        assert said.count(": done; model.safetensors has the best") == 1
        assert "goes on after" not in said
        assert "this run is complete" not in said


def start(path, out, *words):
    command = [sys.executable, "-m", "sonodetr", "experiment", str(path), "--out", str(out), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def workers_of(process):
    """Ids of the processes that it has started for training."""
    listed = subprocess.run(
        ["ps", "-ww", "--ppid", str(process.pid), "-o", "pid=,args="],
        capture_output=True,
        text=True,
    )
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, args in lines if "spawn_main" in args]


def wait_for(condition):
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_process_that_is_killed_is_told_of_and_the_rest_goes_on_later(path, tmp_path):
    out = tmp_path / "out"
    words = ("methods={plain: {}}", "teachers={}", "seeds=[0]")
    begun = start(path, out, *words, "--workers", "2")
    wait_for(lambda: list(out.glob("runs/*.log")))
    victims = workers_of(begun)
    assert len(victims) == 2
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    said = begun.communicate(timeout=60)[1]
    assert begun.returncode == 2
    assert said.splitlines()[-1].startswith(
        "sonodetr: error: a process that trains was ended from outside"
    )
    answer, said = start(path, out, *words, "--json", "-").communicate(timeout=120)
    assert json.loads(answer)["tried"] == 0, said
    assert "1 of 1  plain-seed0-" in said
    assert (out / "results" / "tiny" / "results.json").is_file()


def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(path, tmp_path):
    begun = start(path, tmp_path / "out", "train.epochs=1000")
    assert begun.wait(60) == 2  # of the experiment, not of a run
    begun = start(path, tmp_path / "out", "changes={train.epochs: 1000}")
    wait_for(lambda: list(tmp_path.glob("out/runs/*/metrics.jsonl")))
    victims = workers_of(begun)
    begun.send_signal(signal.SIGINT)
    said = begun.communicate(timeout=60)[1]
    assert begun.returncode == 130
    assert said.splitlines()[-1] == "sonodetr: stopped; start it again to go on"
    assert victims
    for victim in victims:
        with pytest.raises(ProcessLookupError):
            os.kill(victim, 0)
