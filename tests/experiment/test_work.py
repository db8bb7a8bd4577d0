"""What can be done when, which number is chosen, where runs lie, and who has them."""

import fcntl
import json
import threading

import pytest
from tiny_plans import write_data, write_plan

from sonodetr.config_file import dump_config
from sonodetr.experiment import work
from sonodetr.experiment.finish import check_test_parts, chosen_at_an_end, trained_rows
from sonodetr.experiment.plan import Unit, load_plan
from sonodetr.experiment.view import View, epochs_done, list_units, print_units
from sonodetr.experiment.work import Experiment, Waiting
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
        for unit in (Unit("", "attention", 0, 1), Unit("", "plain", 1)):
            waits_for(experiment, unit, "the tuning of plain")
        finish(experiment, Unit("", "plain", 0, rate), ap)
    assert experiment.tuned("", "plain") == 2e-3  # the first of equals
    run = experiment.run(Unit("", "attention", 0, 10))
    assert run.numbers == {"train.learning_rate": 2e-3, "distill.encoder.weight": 10}
    config = run.config
    assert (config.train.learning_rate, config.distill.encoder.weight) == (2e-3, 10)
    waits_for(experiment, Unit("", "attention", 1), "the tuning of attention")
    assert experiment.run(Unit("", "plain", 1)).config.train.learning_rate == 2e-3
    # The first seed of what was tuned is the run that won.
    assert experiment.state(Unit("", "plain", 0)) == "done"


def waits_for(experiment, unit, what):
    assert experiment.state(unit) == "waiting"
    with pytest.raises(Waiting, match=f"^{what}$"):
        experiment.run(unit)


def test_a_teacher_that_had_a_teacher_is_another_with_each(make, tmp_path):
    config = str(tmp_path / "teacher.yaml")
    teachers = {
        name: {"config": config, "changes": {"distill.teacher": path, "distill.heads": heads}}
        for name, path, heads in (("a", "x", "mean"), ("b", "y", "mean"), ("c", "x", "grouped"))
    }
    experiment = make(teachers=teachers, methods={"plain": {}})
    runs = [experiment.run(Unit(None, name)) for name in "abc"]
    assert [run.teacher for run in runs] == ["print of x", "print of y", "print of x"]
    assert len({run.address for run in runs}) == 3


def test_a_list_can_be_tried(make):
    sizes = [[64, 64], [96, 64]]
    experiment = make(methods={"plain": {"tune": {"data.image_size": sizes}}}, teachers={})
    for size, ap in zip(sizes, (0.1, 0.2), strict=True):
        finish(experiment, Unit("", "plain", 0, size), ap)
    run = experiment.run(Unit("", "plain", 1))
    assert run.config.data.image_size == (96, 64)
    assert run.slug == "plain-96-64-seed1"
    assert chosen_at_an_end(experiment) == []


def test_students_wait_for_their_teacher(make):
    methods = {"plain": {}, "attention": {"teacher": "wide", "changes": WEIGHT}}
    experiment = make(methods=methods)
    waits_for(experiment, Unit("", "attention", 0), "teacher wide")
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


def test_targets_are_made_anew_where_code_has_changed(make, monkeypatch):
    """A picture that is augmented otherwise is another picture."""
    plan = {"methods": {"same": {"teacher": "wide", "changes": WEIGHT}}, "baseline": "same"}
    finish(make(**plan), Unit(None, "wide"))

    def cache():
        return make(**plan).run(Unit("", "same", 0)).config.distill.cache

    before, code = cache(), dict(work.sources())
    assert cache() == before
    monkeypatch.setattr(work, "sources", lambda: code | {"data/augment.py": b"changed = True"})
    assert cache() != before


def test_another_experiment_finds_what_is_done(make, tmp_path):
    first = make(methods={"plain": {}}, teachers={})
    folder = finish(first, Unit("", "plain", 0))
    other = make(methods={"by another name": {}}, baseline="by another name", teachers={})
    assert other.trained(Unit("", "by another name", 0)) == folder
    assert other.state(Unit("", "by another name", 1)) == "ready"


def test_a_run_that_another_has_is_left_to_it(make):
    experiment = make(methods={"plain": {}}, teachers={})
    unit = Unit("", "plain", 0)
    run = experiment.run(unit)
    with work.held(experiment._lock(run)) as own:
        assert own
        assert experiment.state(unit) == "running"
        with work.held(experiment._lock(run)) as second:
            assert not second
    with work.held(experiment._lock(run), fcntl.LOCK_SH):  # as one who looks
        assert experiment.state(unit) == "ready"
    assert experiment.state(unit) == "ready"


def test_two_share_the_work_and_nothing_is_trained_twice(make, monkeypatch):
    """Both wait for the other where there is nothing else to do, and both end."""
    trained, count = [], threading.Lock()

    def train_run(run, folder):
        with count:
            trained.append(run.address)
        finish(experiment, by_address[run.address], ap=run.config.train.learning_rate)

    monkeypatch.setattr(work, "train_run", train_run)
    monkeypatch.setattr(work, "SECONDS_BETWEEN_LOOKS", 0.01)
    plan = {"methods": {"plain": {"tune": {"train.learning_rate": [1e-3, 5e-3, 2e-3]}}}}
    experiment = make(teachers={}, seeds=[0, 1, 2], **plan)
    by_address = {}
    before = Experiment.run

    def noted(self, unit):
        run = before(self, unit)
        by_address[run.address] = unit
        return run

    monkeypatch.setattr(Experiment, "run", noted)
    others = [make(teachers={}, seeds=[0, 1, 2], **plan) for _ in range(2)]
    threads = [threading.Thread(target=each.work) for each in others]
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
        experiment.work()


def test_what_is_refused_before_it_begins_leaves_nothing(make):
    experiment = make(methods={"plain": {"changes": {"train.precision": "fp16"}}}, teachers={})
    with pytest.raises(InputError, match=r"^plain-seed0-\w{12}: .*'fp16' needs a GPU"):
        experiment.work()
    assert list((experiment.out / "runs").iterdir()) == []


def test_the_list_says_how_far_everything_is(make, capsys):
    experiment = make()
    finish(experiment, Unit("", "plain", 0, 1e-3), 0.251)
    begun = experiment.folder(experiment.run(Unit("", "plain", 0, 3e-3)))
    begun.mkdir()
    (begun / "config.yaml").write_text(dump_config(experiment.run(Unit(None, "wide")).config))
    (begun / "metrics.jsonl").write_text('{"step": 3, "epoch": 1.0}\n{"step": 4, "ep')
    assert epochs_done(begun) == 1
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
        folder = finish(experiment, Unit("", "plain", 0, rate), ap)
    assert chosen_at_an_end(experiment) == []
    info = read_info(folder)
    save_info(folder, info.model_copy(update={"validation": {"ap": 0.4}}))
    assert chosen_at_an_end(experiment) == [
        "plain: train.learning_rate 0.003 is the largest that was tried"
    ]


def test_yes_and_no_have_no_end(make):
    tune = {"model.points": [False, True]}
    experiment = make(teachers={}, seeds=[0], methods={"plain": {"tune": tune}})
    for value in (False, True):
        finish(experiment, Unit("", "plain", 0, value), 0.3 * value)
    assert chosen_at_an_end(experiment) == []


RATES = {"train.learning_rate": [2e-3, 1e-3, 3e-3]}


def test_a_folder_to_test_on_must_be_there(make):
    shifted = {"test": {"shifted": "shifted"}, "teachers": {}, "methods": {"plain": {}}}
    with pytest.raises(InputError, match=r"test part 'shifted': .*/data/shifted: no such folder"):
        check_test_parts(make(**shifted).plan)


def test_there_must_be_enough_to_test_on(make, tmp_path):
    methods = {"teachers": {}, "methods": {"plain": {}}}
    check_test_parts(make(**methods, test={"new": "test"}).plan)
    divided = {"data.split.by_folder": False, "data.split.folds": 3}
    with pytest.raises(InputError, match="is another one with seed 1 than with seed 0"):
        check_test_parts(make(**methods, test={"new": "test"}, changes=divided).plan)
    check_test_parts(make(**methods, test={"new": "test"}, changes=divided, seeds=[4]).plan)
    alike = divided | {"data.split.seed": 0}
    check_test_parts(make(**methods, test={"new": "test"}, changes=alike).plan)
    write_data(tmp_path / "data", [("shifted", 1)])
    with pytest.raises(InputError, match="'shifted': has 1 objects in 1 images; objects in two"):
        check_test_parts(make(**methods, test={"new": "test", "other": "shifted"}).plan)


def test_what_is_reported_of_a_finished_experiment(make, tmp_path, monkeypatch):
    methods = {
        "plain": {"tune": {"train.learning_rate": [1e-3, 2e-3]}},
        "long": {"takes": ["plain"], "changes": {"train.epochs": 3}, "against": ["plain"]},
    }
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    methods["long"]["queries"] = ["anchor"]
    teachers = {"wide": {"run": str(tmp_path / "wide")}, "of others": {"run": str(tmp_path)}}
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.yaml").touch()
    monkeypatch.setattr(work, "_fingerprint", lambda folder: "0123456789abcdef")
    for name in ("config.json", "model.safetensors"):  # as transformers writes them
        (tmp_path / name).touch()
    experiment = make(methods=methods, queries=queries, teachers=teachers)
    for unit in experiment.plan.units():
        finish(experiment, unit, ap=0.3 if unit.value == 2e-3 else 0.1)
    rows = trained_rows(experiment)
    assert [(row.queries, row.method) for row in rows] == [
        (None, "wide"),
        ("anchor", "plain"),
        ("anchor", "long"),
        ("learned", "plain"),
    ]
    assert [len(row.runs) for row in rows] == [1, 2, 2, 2]
    # A teacher that was there before is measured in a copy; its own folder may be anybody's.
    assert rows[0].runs == (tmp_path / "out" / "teachers" / "0123456789ab",)
    assert [path.name for path in rows[0].runs[0].iterdir()] == ["config.yaml"]
    assert rows[1].runs[0].name.startswith("anchor-plain-0.002-seed0-")
    assert [row.tuned for row in rows] == [{}, *[{"train.learning_rate": 2e-3}] * 3]


def test_the_view_tells_of_all_that_happens_whoever_trains(make, capsys):
    """Two methods that are one run count as two, so that all of all are done at the end."""
    methods = {"plain": {}, "the same": {}}
    experiment = make(methods=methods, teachers={}, seeds=[0, 1])
    finish(experiment, Unit("", "plain", 0), 0.1)
    other = make(methods=methods, teachers={}, seeds=[0, 1])
    with View(experiment) as view:
        assert view.refresh()
        assert capsys.readouterr().err == ""
        run = other.run(Unit("", "plain", 1))
        with work.held(other._lock(run)):
            assert view.refresh()
            assert view.refresh()
            assert capsys.readouterr().err == f"train {other.folder(run)}\n"
            folder = finish(other, Unit("", "plain", 1), 0.25)
        assert not view.refresh()
    assert capsys.readouterr().err.splitlines() == [
        f"3 of 4  {folder.name}  validation AP 0.250",
        f"4 of 4  {folder.name}  validation AP 0.250",
    ]


def test_a_folder_that_was_renamed_is_refused(make):
    experiment = make()
    run = experiment.run(Unit("", "plain", 0, 1e-3))
    folder = experiment.folder(run)
    folder.mkdir(parents=True)
    earlier = run.config.model_copy(update={"name": "earlier"})
    (folder / "config.yaml").write_text(dump_config(earlier))
    with pytest.raises(InputError, match=f"{folder.name}: was started with another config"):
        work.train_run(run, folder)
    assert not (folder.parent / "earlier").exists()
