"""Students that learn from teachers, from the config to the run folder."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stills import write_stills

from sonodetr.cli import main
from sonodetr.config_file import dump_config
from sonodetr.data.clips import collate
from sonodetr.files import InputError
from sonodetr.model.weights import read_safetensors
from sonodetr.training.data import open_data
from sonodetr.training.distillation import Distillation, weight_at
from sonodetr.training.fit import Trainer, train
from sonodetr.training.run import load_run
from sonodetr.training.start import common_clip, start_accelerator, start_model, start_task
from sonodetr.training.teachers import open_teacher

ALL = {
    "encoder": {"weight": 1.0},
    "decoder": {"weight": 1.0},
    "cross": {"weight": 1.0},
    "detections": {"weight": 1.0},
    "memory": {"weight": 1.0},
}


def task_of(config):
    """The task of a config, its model and its data."""
    data = open_data(config)
    torch.manual_seed(config.seed)
    model, _ = start_model(config, data.class_names, resume=False)
    task = start_task(config, data, model, start_accelerator("no"))
    assert isinstance(task, Distillation)
    return task, model, data


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_weight_falls_evenly(tiny):
    term = tiny(distill={"encoder": {"weight": 3.0, "until": 0.6}}).distill.encoder
    assert [weight_at(term, done) for done in (0.0, 0.2, 0.6, 0.9)] == pytest.approx([3, 2, 0, 0])
    constant = term.model_copy(update={"until": 0.0})
    assert weight_at(constant, 1.0) == 3


def test_run_folder_of_a_student(tiny, teacher, tmp_path):
    run = train(tiny(distill={"teacher": teacher(), **ALL}), tmp_path)
    entries = metrics(run)
    for name in ALL:
        assert all(entry[f"train/distill_{name}"] >= 0 for entry in entries[::2])
        assert all(entry[f"validation/distill_{name}"] >= 0 for entry in entries[1::2])
    assert len(list((run / "attention").glob("step-*.png"))) == 3
    assert json.loads((run / "teacher.json").read_text())["teacher"] == str(tmp_path / "teacher")
    for weights in ("model.safetensors", "last.safetensors"):
        assert not any("training_only" in name for name in read_safetensors(run / weights))
    student, _, _ = load_run(run)  # is a detector like any other
    assert student(torch.rand(1, 1, 1, 64, 64)).groups == 1


def test_student_comes_to_look_where_its_teacher_does(tiny, teacher, tmp_path):
    distill = {"teacher": teacher(), "encoder": {"weight": 30.0}}
    values = {"epochs": 6, "learning_rate": 5e-3, "ema_decay": 0.0}
    run = train(tiny(distill=distill, train=values, model={"dropout": 0.0}), tmp_path)
    divergences = [entry["validation/distill_encoder"] for entry in metrics(run)[1::2]]
    assert divergences[-1] < 0.5 * divergences[0]


def test_a_student_with_its_teachers_weights_has_nothing_to_learn(tiny, teacher):
    """Attention and detections agree exactly in evaluation; and so no gradient comes from them."""
    path = teacher()
    shape = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 2, "weights": path}
    distill = {"teacher": path, "encoder": {"weight": 1.0}, "detections": {"weight": 1.0}}
    last = {"auxiliary": False}  # earlier layers do differ from the teacher's answer
    task, model, data = task_of(tiny(model=shape | {"dropout": 0.0}, distill=distill, loss=last))
    batch = collate([data.training()[0, index] for index in range(3)])
    model.eval()
    outputs = model(batch.images, task.alignment.student_capture)
    distances = task.distances(outputs, task.targets(batch), batch)
    assert set(distances) == {"encoder", "detections"}
    for value in distances.values():
        assert value.item() == pytest.approx(0, abs=1e-5)
    torch.stack(list(distances.values())).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    assert largest < 1e-3


def test_terms_add_up_with_their_weights(tiny, teacher):
    distill = {"teacher": teacher(), "encoder": {"weight": 2.0, "until": 0.5}}
    distill |= {"memory": {"weight": 3.0}}
    task, model, data = task_of(tiny(distill=distill, model={"dropout": 0.0}))
    batch = collate([data.training()[0, index] for index in range(3)])
    terms = ("classification", "box_l1", "box_giou", "points", "dense")
    for done, of_encoder in ((0.0, 2.0), (0.25, 1.0), (0.5, 0.0)):
        named = task(model, batch, done)
        plain = sum(named[term].item() for term in terms)
        extra = of_encoder * named["distill_encoder"].item() + 3 * named["distill_memory"].item()
        assert named["loss"].item() == pytest.approx(plain + extra, rel=1e-5)


def test_teacher_rests_when_all_weights_are_zero(tiny, teacher, monkeypatch):
    distill = {"teacher": teacher(), "encoder": {"weight": 2.0, "until": 0.5}}
    distill |= {"memory": {"weight": 1.0, "until": 0.6}}
    task, model, data = task_of(tiny(distill=distill))
    batch = collate([data.training()[0, 0]])
    monkeypatch.setattr(type(task), "targets", None)
    named = task(model, batch, 0.7)
    assert "distill_encoder" not in named
    named["loss"].backward()
    # Several processes wait for the gradient of every parameter, also those of resting losses.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unlabelled_clips_teach_by_the_teacher_alone(tiny, teacher):
    """Half of the recordings have labels; the detection loss sees no more than these."""
    distill = {"teacher": teacher(), "detections": {"weight": 1.0}, "unlabelled_batch": 3}
    config = tiny(distill=distill, data={"labelled": 0.5}, model={"dropout": 0.0})
    task, model, data = task_of(config)
    everything = open_data(config.model_copy(update={"data": tiny().data})).split.train
    hidden = data.unlabelled
    assert sorted([*data.split.train, *hidden]) == everything
    assert len(data.split.train) == -(-len(everything) // 2)
    keys = next(data.training_order(0, 0, 1))
    assert [data.examples[index] in hidden for _, index in keys] == [False] * 2 + [True] * 3
    batch = collate([data.training()[key] for key in keys[::-1]])
    assert (len(batch.targets), len(batch.images)) == (2, 5)
    alone = collate([data.training()[key] for key in keys[:2][::-1]])
    model.backbone.eval()  # so that clips do not change each other's features
    model.fine_memory.eval()
    named, plain = task(model, batch, 0.0), task.detection(model, alone, 0.0)
    for term in ("box_l1", "dense"):
        assert named[term].item() == pytest.approx(plain[term].item(), rel=1e-4)
    assert named["distill_detections"].item() > 0


@pytest.mark.parametrize("queries", ["learned", "anchor"])
def test_a_student_knows_where_its_teachers_queries_start(tiny, teacher, queries):
    distill = {"teacher": teacher(), "cross": {"weight": 1.0}}
    softmax = {"queries": queries, "classification": "softmax", "dropout": 0.0}
    task, _, data = task_of(tiny(distill=distill, model=softmax))
    batch = collate([data.training()[0, 0]])
    targets = task.targets(batch)
    moved = targets | {"anchors": targets["anchors"].flip(1)}
    name = task.alignment.names[0]
    here, there = (task.maps(batch, each)[name] for each in (targets, moved))
    assert (here - there).abs().max() > 1e-4


def test_a_teacher_is_not_asked_once_its_weights_have_fallen(tiny, teacher, monkeypatch):
    distill = {"teacher": teacher(), "unlabelled_batch": 3}
    distill |= {"detections": {"weight": 1.0, "until": 0.5}}
    task, model, data = task_of(tiny(distill=distill, data={"labelled": 0.5}))
    batch = collate([data.training()[key] for key in next(data.training_order(0, 0, 1))])
    assert len(batch.targets) < len(batch.images)
    monkeypatch.setattr(type(task), "targets", None)
    named = task(model, batch, 0.7)
    assert not any(name.startswith("distill") for name in named)
    named["loss"].backward()


def test_shuffled_teacher_shows_maps_of_other_clips(tiny, teacher):
    path = teacher()
    shape = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 2, "weights": path}
    values = {"teacher": path, "encoder": {"weight": 1.0}}
    found = {}
    for shuffle in (False, True):
        config = tiny(model={**shape, "dropout": 0.0}, distill={**values, "shuffle": shuffle})
        task, model, data = task_of(config)
        batch = collate([data.training()[0, index] for index in range(3)])
        found[shuffle] = task(model.eval(), batch, 0.0)["distill_encoder"].item()
        # How near it comes to its teacher is measured on the teacher's own maps in either case.
        held_out = task.held_out([(batch, task.targets(batch))])
        assert held_out["validation/distill_encoder"] == pytest.approx(0, abs=1e-6)
    assert found[False] == pytest.approx(0, abs=1e-6)
    assert found[True] > 1e-4


def test_a_loss_that_ends_within_an_epoch_is_the_mean_of_its_steps(tiny, teacher, tmp_path):
    term = {"weight": 1.0, "until": 0.5}
    config = tiny(distill={"teacher": teacher(), "encoder": term}, train={"epochs": 1})
    task, model, data = task_of(config)
    trainer = Trainer(config, data, model, tmp_path, start_accelerator("no"), task)
    trainer.steps_an_epoch = 4
    for values in ({"loss": 3.0, "distill_encoder": 2.0}, {"loss": 1.0, "distill_encoder": 1.0}):
        trainer._count(values)
    for _ in range(2):
        trainer._count({"loss": 0.0})
    means = trainer._epoch_means()
    assert (means["train/loss"], means["train/distill_encoder"]) == (1.0, 1.5)
    assert means["epoch"] == 1


def test_killed_distillation_goes_on_to_the_same_bits(tiny, teacher, tmp_path, monkeypatch):
    config = tiny(distill={"teacher": teacher(), **ALL})
    whole = train(config, tmp_path / "whole")
    count, steps = Trainer._count, []

    def stop(self, values):
        count(self, values)
        steps.append(1)
        if len(steps) == 5:
            self._save()
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_count", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "killed")
    monkeypatch.setattr(Trainer, "_count", count)
    resumed = train(config, tmp_path / "killed", resume=True)
    first, second = (read_safetensors(run / "last.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_cached_targets_serve_every_seed(tiny, teacher, tmp_path, monkeypatch):
    """The second run never asks about a training clip; half precision changes little."""
    cache = str(tmp_path / "cache")
    values = {"teacher": teacher(), **ALL, "unlabelled_batch": 2}
    data = {"augment": {"views": 2}, "labelled": 0.6}
    asked, ask = [], Distillation.ask

    def counted(self, batch):
        asked.extend(source.key for source in batch.sources)
        return ask(self, batch)

    monkeypatch.setattr(Distillation, "ask", counted)
    live = train(tiny(name="live", distill=values, data=data), tmp_path)
    asked.clear()
    config = tiny(name="cached", distill={**values, "cache": cache}, data=data)
    first = train(config, tmp_path)
    parts = open_data(config)
    clips = {parts.videos[video].key for video, _ in parts.examples}
    first_asked = asked[0]  # once more, to learn the shapes
    assert all(asked.count(key) == 2 + (key == first_asked) for key in clips)
    asked.clear()
    train(tiny(name="again", distill={**values, "cache": cache}, data=data), tmp_path)
    assert not clips & set(asked[1:])
    # Rounding may match a teacher's query to another one of the student's now and then.
    for one, other in zip(metrics(live)[::2], metrics(first)[::2], strict=True):
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=2e-2)
    with pytest.raises(InputError, match="was made by another teacher"):
        train(
            tiny(
                name="stale",
                distill={**values, "teacher": teacher(seed=9), "cache": cache},
                data=data,
            ),
            tmp_path,
        )


def test_a_teacher_that_has_changed_is_refused_on_resume(tiny, teacher, tmp_path):
    config = tiny(distill={"teacher": teacher(), "encoder": {"weight": 1.0}})
    train(config, tmp_path)
    teacher(seed=4)
    with pytest.raises(InputError, match="has changed since the run began"):
        train(config, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("given", "distill", "message"),
    [
        ({}, {}, "no loss has a weight"),
        ({"classes": ("needle",)}, {"detections": {"weight": 1.0}}, "cannot be compared"),
        (
            {"data": {"image_size": [96, 64]}},
            {"encoder": {"weight": 1.0}},
            "image_size=.96, 64",
        ),
        ({"data": {"clip_frames": 4}}, {"encoder": {"weight": 1.0}}, "teacher of shorter clips"),
        ({}, {"encoder": {"weight": 1.0, "layers": [[0, 5]]}}, "layer 5"),
        ({}, {"encoder": {"weight": 1.0}, "cache": "cache"}, "data.augment.views"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny, teacher, tmp_path, given, distill, message):
    config = tiny(distill={"teacher": teacher(**given), **distill})
    with pytest.raises(InputError, match=message) as error:
        train(config, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("division", ["[]", '{"train": 3}', '{"train": {"a": 3}}'])
def test_a_damaged_division_of_a_teacher_is_named(tiny, teacher, tmp_path, division):
    """Whether it has seen what tests its student must be known."""
    folder = teacher()
    Path(folder, "split.json").write_text(division)
    with pytest.raises(InputError, match=r"split\.json: does not hold train, validation, test"):
        train(tiny(distill={"teacher": folder, "encoder": {"weight": 1.0}}), tmp_path)


def test_a_teacher_that_answers_nan_is_named(tiny, teacher, tmp_path):
    folder = teacher()
    weights = Path(folder, "model.safetensors")
    save_file({name: each * math.nan for name, each in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match="answers a black picture with what is not finite"):
        train(tiny(distill={"teacher": folder, "encoder": {"weight": 1.0}}), tmp_path)


def test_a_teacher_of_ones_own_teaches_as_its_folder_does(tiny, teacher, tmp_path):
    folder = teacher()
    last = []
    for name, given in ((folder, None), ("mine", open_teacher(folder))):
        config = tiny(name=Path(name).name, distill={"teacher": name, **ALL}, train={"epochs": 1})
        run = train(config, tmp_path / "runs", teacher=given)
        last.append((run / "last.safetensors").read_bytes())
    assert last[0] == last[1]
    assert json.loads((run / "teacher.json").read_text())["teacher"] == "mine"
    with pytest.raises(InputError, match="given without a name; set distill"):
        train(tiny(name="nameless"), tmp_path / "runs", teacher=open_teacher(folder))


def test_one_clip_a_batch_cannot_be_shuffled(tiny, teacher):
    distill = {"teacher": teacher(), "encoder": {"weight": 1.0}, "shuffle": True}
    with pytest.raises(InputError, match="batch_size=2 or more"):
        task_of(tiny(distill=distill, train={"batch_size": 1}))


def test_half_precision_reaches_the_end(tiny, teacher, tmp_path):
    run = train(tiny(distill={"teacher": teacher(), **ALL}, train={"precision": "bf16"}), tmp_path)
    assert all(metrics(run)[-1][f"validation/distill_{name}"] >= 0 for name in ALL)


def test_a_teachers_clips_stay_on_their_side_of_the_border(tiny, teacher):
    """A teacher that looks further back than the student needs a wider border."""
    split = {"test_frames": [[40, 60]], "validation_frames": [[80, 90]], "border_frames": 5}
    data = tiny(data={"split": split}).data
    path = teacher(data={"clip_frames": 3, "clip_step": 3})
    with pytest.raises(InputError, match="border_frames must be at least 6"):
        common_clip(data, open_teacher(path), longest=100)
    clip = common_clip(data, open_teacher(teacher(data={"clip_frames": 3})), longest=100)
    assert (clip.clip_frames, clip.clip_step) == (3, 1)


def test_verb(tiny, teacher, tmp_path, monkeypatch, capsys):
    path, student = teacher(), tmp_path / "student.yaml"
    student.write_text(dump_config(tiny(distill={"encoder": {"weight": 1.0}})))

    def call(*words):
        monkeypatch.setattr("sys.argv", ["sonodetr", "distill", str(student), *words])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    assert call() == 2
    assert "no teacher is named" in capsys.readouterr().err
    assert call("--teacher", path, "--out", str(tmp_path / "runs"), "train.epochs=1") in (0, None)
    assert "trained" in capsys.readouterr().out
    assert (tmp_path / "runs" / "tiny" / "attention").is_dir()


def test_more_recordings_without_labels(tiny, teacher, tmp_path):
    """Their labels, if there are any, are never looked at; all their frames are used."""
    more = write_stills(tmp_path, classes=("something", "else"), count=5, seed=7)
    distill = {"teacher": teacher(), "encoder": {"weight": 1.0}, "unlabelled_batch": 5}
    task, model, data = task_of(tiny(distill=distill, data={"unlabelled": str(more)}))
    keys = next(data.training_order(0, 0, 1))
    batch = collate([data.training()[key] for key in keys])
    assert (len(batch.targets), len(batch.images)) == (2, 7)
    assert {source.key for source in batch.sources[2:]} == {video.key for video in data.more}
    named = task(model, batch, 0.0)
    assert torch.isfinite(named["loss"])
    # Without a teacher nothing of them is read.
    assert open_data(tiny(data={"unlabelled": str(tmp_path / "nowhere")})).unlabelled == ()
