"""What can be done when, which number is chosen, where runs lie, and who has them."""

import json
import threading

import pytest
from tiny_plans import write_data, write_plan

from sonodetr.config_file import dump_config
from sonodetr.experiment import work
from sonodetr.experiment.finish import chosen_at_an_end, finished_experiment
from sonodetr.experiment.plan import Unit, load_plan
from sonodetr.experiment.view import epochs_done, list_units, print_units
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError
from sonodetr.training.run import RunInfo, read_info, save_info


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes an experiment whose teachers need not exist; keywords change its plan."""
    monkeypatch.setattr(work, "_fingerprint", lambda folder: f"print of {folder}")
    data = write_data(tmp_path / "data")

    def begin(out="out", **changes):
        return Experiment(load_plan(write_plan(tmp_path, data, **changes)), tmp_path / out)

    return begin


def finish(experiment, unit, ap=0.2):
    """What a finished training leaves."""
    run = experiment.run(unit)
    folder = experiment.folder(run)
    folder.mkdir(parents=True)
    info = {"classes": ("nerve",), "threshold": 0.3, "step": 4, "provenance": {}}
    save_info(folder, RunInfo(validation={"ap": ap}, **info))
    (folder / "config.yaml").write_text(dump_config(run.config))
    (folder / "metrics.jsonl").write_text('{"step": 4, "epoch": 2.0}\n{"step": 4}\n')
    (folder / "last.safetensors").touch()
    return folder


def test_the_best_value_on_validation_data_is_taken_once_all_are_tried(make):
    rates = [1e-3, 2e-3, 3e-3, 4e-3]
    methods = {
        "plain": {"tune": {"train.learning_rate": rates}},
        "attention": {
            "teacher": "wide",
            "takes": ["plain"],
            "tune": {"distill.encoder.weight": [1, 10]},
        },
    }
    experiment = make(methods=methods)
    finish(experiment, Unit(None, "wide"))
    for rate, ap in zip(rates, (0.1, 0.3, 0.3, None), strict=True):  # None: nothing was found
        assert experiment.tuned("", "plain") is None
        assert experiment.run(Unit("", "attention", 0, 1)) == "the tuning of plain"
        assert experiment.run(Unit("", "plain", 1)) == "the tuning of plain"
        finish(experiment, Unit("", "plain", 0, rate), ap)
    assert experiment.tuned("", "plain") == 2e-3  # the first of equals
    config = experiment.run(Unit("", "attention", 0, 10)).config
    assert (config.train.learning_rate, config.distill.encoder.weight) == (2e-3, 10)
    assert experiment.run(Unit("", "attention", 1)) == "the tuning of attention"
    assert experiment.run(Unit("", "plain", 1)).config.train.learning_rate == 2e-3
    # The first seed of what was tuned is the run that won.
    assert experiment.state(Unit("", "plain", 0))[0] == "done"


def test_students_wait_for_their_teacher(make):
    methods = {"plain": {}, "attention": {"teacher": "wide", "changes": WEIGHT}}
    experiment = make(methods=methods)
    assert experiment.run(Unit("", "attention", 0)) == "teacher wide"
    folder = finish(experiment, Unit(None, "wide"))
    run = experiment.run(Unit("", "attention", 0))
    assert run.config.distill.teacher == str(folder)
    assert run.teacher == f"print of {folder}"


WEIGHT = {"distill.encoder.weight": 1}


def test_targets_are_kept_once_for_all_that_ask_the_same(make):
    """Whatever the seed, the labels and the weight; but not for other maps, batches or teachers."""
    methods = {
        name: {"teacher": "wide", "changes": WEIGHT | changes}
        for name, changes in {
            "same": {},
            "heavier": {"distill.encoder.weight": 30, "distill.detections.weight": 1},
            "few": {"data.labelled": 0.5, "distill.shuffle": True},
            "maps": {"distill.cross.weight": 1},
            "heads": {"distill.heads": "mean"},
            "batch": {"train.batch_size": 2},
            "views": {"data.augment.views": 3},
            "layers": {"model.encoder_layers": 2},
            "none": {"data.augment.views": 0},
        }.items()
    }
    experiment = make(methods=methods, baseline="same")
    finish(experiment, Unit(None, "wide"))
    cache = {
        (name, seed): experiment.run(Unit("", name, seed)).config.distill.cache
        for name in methods
        for seed in (0, 1)
    }
    assert cache["same", 0].startswith(str(experiment.out / "targets"))
    for name in ("same", "heavier", "few"):
        assert {cache[name, 0], cache[name, 1]} == {cache["same", 0]}, name
    others = ("maps", "heads", "batch", "views", "layers")
    assert len({cache[name, 0] for name in (*others, "same")}) == 6
    assert cache["none", 0] == ""


def test_another_experiment_finds_what_is_done(make, tmp_path):
    first = make(methods={"plain": {}}, teachers={})
    folder = finish(first, Unit("", "plain", 0))
    other = make(methods={"by another name": {}}, baseline="by another name", teachers={})
    state, run = other.state(Unit("", "by another name", 0))
    assert state == "done"
    assert other.folder(run) == folder
    assert other.state(Unit("", "by another name", 1))[0] == "ready"


def test_a_run_that_another_has_is_left_to_it(make):
    experiment = make(methods={"plain": {}}, teachers={})
    unit = Unit("", "plain", 0)
    run = experiment.run(unit)
    with work._held(experiment._lock(run)) as own:
        assert own
        assert experiment.state(unit)[0] == "running"
        with work._held(experiment._lock(run)) as second:
            assert not second
    assert experiment.state(unit)[0] == "ready"


def test_two_share_the_work_and_nothing_is_trained_twice(make, monkeypatch):
    """Both wait for the other where there is nothing else to do, and both end."""
    trained, count = [], threading.Lock()

    def train_run(run, folder):
        with count:
            trained.append(run.address)
        finish(experiment, by_address[run.address], ap=run.config.train.learning_rate)

    monkeypatch.setattr(work, "train_run", train_run)
    monkeypatch.setattr(work, "_SECONDS_BETWEEN_LOOKS", 0.01)
    plan = {"methods": {"plain": {"tune": {"train.learning_rate": [1e-3, 5e-3, 2e-3]}}}}
    experiment = make(teachers={}, seeds=[0, 1, 2], **plan)
    by_address = {}
    before = Experiment.run

    def noted(self, unit):
        run = before(self, unit)
        if not isinstance(run, str):
            by_address[run.address] = unit
        return run

    monkeypatch.setattr(Experiment, "run", noted)
    others = [make(teachers={}, seeds=[0, 1, 2], **plan) for _ in range(2)]
    threads = [threading.Thread(target=list, args=(each.work(),)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(trained) == len(set(trained)) == 3 + 2
    assert experiment.tuned("", "plain") == 5e-3


def test_what_cannot_be_trained_is_named(make, monkeypatch):
    changes = {"train.learning_rate": 1e30}
    experiment = make(methods={"plain": {"changes": changes}}, teachers={}, seeds=[0])
    with pytest.raises(InputError, match=r"^plain-seed0-\w{12}: loss or gradient is not finite"):
        list(experiment.work())


def test_the_list_says_how_far_everything_is(make, capsys):
    experiment = make()
    finish(experiment, Unit("", "plain", 0, 1e-3), 0.251)
    begun = experiment.folder(experiment.run(Unit("", "plain", 0, 3e-3)))
    begun.mkdir()
    (begun / "config.yaml").write_text(dump_config(experiment.run(Unit(None, "wide")).config))
    (begun / "metrics.jsonl").write_text('{"step": 3, "epoch": 1.0}\n{"step": 4, "ep')
    assert epochs_done(begun) == (1, 2)
    rows = list_units(experiment)
    assert [row["state"] for row in rows] == ["ready", "done", "ready", *["waiting"] * 4]
    assert json.loads(json.dumps(rows))[1]["validation_ap"] == 0.251
    print_units(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ready", experiment.folder(experiment.run(Unit(None, "wide"))).name]
    assert lines[1].startswith("done     AP 0.251   plain-0.001-seed0-")
    assert lines[2].startswith("ready    1 of 2     plain-0.003-seed0-")
    assert lines[3].endswith("attention, 1, seed 0: waits for the tuning of plain")


def test_a_number_at_an_end_of_what_was_tried_is_told_of(make):
    experiment = make(teachers={}, seeds=[0], methods={"plain": {"tune": RATES}})
    for rate, ap in ((1e-3, 0.1), (2e-3, 0.3), (3e-3, 0.2)):
        assert chosen_at_an_end(experiment) == []
        folder = finish(experiment, Unit("", "plain", 0, rate), ap)
    assert chosen_at_an_end(experiment) == []
    info = read_info(folder)
    save_info(folder, info.model_copy(update={"validation": {"ap": 0.4}}))
    assert chosen_at_an_end(experiment) == [
        "plain: train.learning_rate 0.003 is the largest that was tried"
    ]


RATES = {"train.learning_rate": [2e-3, 1e-3, 3e-3]}


def test_what_is_reported_of_a_finished_experiment(make):
    methods = {
        "plain": {"tune": {"train.learning_rate": [1e-3, 2e-3]}},
        "long": {"takes": ["plain"], "changes": {"train.epochs": 3}, "against": ["plain"]},
    }
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    methods["long"]["queries"] = ["anchor"]
    plan = {"methods": methods, "queries": queries, "teachers": {}, "prepare": ["simulate"]}
    experiment = make(**plan)
    with pytest.raises(InputError, match="plain, seed 0: is waiting; start the experiment again"):
        finished_experiment(experiment, "again")
    for unit in experiment.plan.units():
        finish(experiment, unit, ap=0.3 if unit.value == 2e-3 else 0.1)
    found = finished_experiment(experiment, "again")
    assert [(row.queries, row.method) for row in found.rows] == [
        ("anchor", "plain"),
        ("anchor", "long"),
        ("learned", "plain"),
    ]
    assert [len(row.runs) for row in found.rows] == [2, 2, 2]
    assert found.rows[0].runs[0].name.startswith("anchor-plain-0.002-seed0-")
    assert [row.tuned for row in found.rows] == [{"train.learning_rate": 2e-3}] * 3
    assert found.rows[1].against == ("plain",)
    assert (found.tried, found.again, found.seeds) == (4, ("simulate", "again"), (0, 1))
