"""Runs trained elsewhere are taken in where their code and data are known, else refused."""

import json
import shutil

import pytest
from tiny_plans import write_data, write_plan

from sonodetr.experiment import adopt as module
from sonodetr.experiment.address import sources, sources_at
from sonodetr.experiment.adopt import adopt
from sonodetr.experiment.plan import Unit, load_plan
from sonodetr.experiment.work import Experiment, held
from sonodetr.files import InputError, read_json
from sonodetr.training.fit import train

REVISION = "5eed5eed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A plan, and the folder of a run of it that `train` has made under another name."""
    folder = tmp_path_factory.mktemp("adopt")
    path = write_plan(folder, write_data(folder / "data"), methods={"plain": {}}, teachers={})
    config = load_plan(path).student_config("", "plain", 1, {})
    other = {"name": "by-hand", "train": config.train.model_copy(update={"workers": 1})}
    run = train(config.model_copy(update=other), folder / "elsewhere")
    return path, run


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of it whose revision holds what is installed here."""
    code = dict(sources())
    monkeypatch.setattr(module, "sources_at", {REVISION: code, "older": code | OLDER}.__getitem__)
    folder = shutil.copytree(trained[1], tmp_path / "by-hand")
    revised(folder, REVISION)
    return folder


# Without the last one, which no training runs.
OLDER = {"model/detr.py": b"", "training/fit.py": b"", "set_loss.py": b"", "draw.py": b""}


def revised(run, revision):
    info = read_json(run / "run.json")
    info["provenance"]["git_revision"] = revision
    (run / "run.json").write_text(json.dumps(info))


def test_a_run_of_the_same_config_is_found_by_an_experiment(run, trained, tmp_path):
    experiment = Experiment(load_plan(trained[0]), tmp_path / "out")
    assert experiment.state(Unit("", "plain", 1)) == "ready"
    (run / "evaluation-test").mkdir()
    taken, left = adopt([run], tmp_path / "out")
    assert left == []
    assert taken == [experiment.trained(Unit("", "plain", 1))]
    assert taken[0].name == f"by-hand-{experiment.run(Unit('', 'plain', 1)).address[:12]}"
    assert (taken[0] / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert not (taken[0] / "checkpoint.safetensors").exists()
    assert not (taken[0] / "evaluation-test").exists()
    about = read_json(taken[0].with_name(f"{taken[0].name}.json"))
    assert about["adopted"] == {"from": str(run), "revision": REVISION}
    assert experiment.state(Unit("", "plain", 0)) == "ready"  # another seed
    assert adopt([run], tmp_path / "out") == (taken, [])  # it is there already


def refused(run, out, said, **options):
    taken, (line,) = adopt([run.parent], out, **options)
    assert taken == []
    assert line.startswith(f"{run}: not taken: ")
    assert said in line
    assert "\n" not in line
    assert not list(out.glob("runs/*"))


def test_other_code_is_refused(run, tmp_path):
    revised(run, "older")
    said = "model/detr.py, set_loss.py, training/fit.py changed since older"
    refused(run, tmp_path / "out", said)


@pytest.mark.parametrize(
    ("revision", "said"),
    [(None, "names no revision"), ("5eed-dirty", "names revision 5eed-dirty, which was changed")],
)
def test_unknown_code_is_refused_unless_somebody_vouches_for_it(run, tmp_path, revision, said):
    revised(run, revision)
    refused(run, tmp_path / "out", f"{said}; if you know its code, name it: --trained-at")
    refused(run, tmp_path / "out", "changed since older", revision="older")
    assert len(adopt([run], tmp_path / "out", REVISION)[0]) == 1


@pytest.mark.parametrize("revision", ["--output=victim", "-h", "a b"])
def test_a_revision_is_no_option(run, tmp_path, monkeypatch, revision):
    monkeypatch.setattr(module, "sources_at", sources_at)
    revised(run, revision)
    refused(run, tmp_path / "out", "is no git revision")
    with pytest.raises(InputError, match="is no git revision"):
        adopt([run], tmp_path / "out", revision)


def test_other_runs_are_refused(run, tmp_path):
    division = read_json(run / "split.json")
    moved = division["train"].pop("train/3.png")
    (run / "split.json").write_text(json.dumps(division | {"test": {"train/3.png": moved}}))
    refused(run, tmp_path / "out", "is divided differently now")
    (run / "last.safetensors").unlink()
    refused(run, tmp_path / "out", "it is not finished; go on with --resume")
    (run / "config.yaml").write_text("models: {}")
    (run / "last.safetensors").touch()
    refused(run, tmp_path / "out", "unknown key 'models'")


def test_a_run_that_is_being_trained_is_not_replaced(run, tmp_path):
    (folder,), _ = adopt([run], tmp_path / "out")
    (folder / "last.safetensors").unlink()
    with held(tmp_path / "out" / "locks" / folder.name[-12:]):
        _, (line,) = adopt([run], tmp_path / "out")
        assert line.endswith("it is being trained here; wait for that")
    _, (line,) = adopt([run], tmp_path / "out")
    assert line.endswith("was begun; remove that folder to take this run instead")


def test_no_run_at_all(tmp_path):
    with pytest.raises(InputError, match="is no run folder and holds none"):
        adopt([tmp_path], tmp_path / "out")
