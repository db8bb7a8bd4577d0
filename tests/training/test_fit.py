import json
import os
import signal
import time
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from processes import contents, die_after, fill_disk_at_second_checkpoint, stop_at_next_epoch
from safetensors.torch import load_file, save_file
from stills import CLASSES, write_stills

from sonodetr.config import BackboneConfig, LossConfig, ModelConfig
from sonodetr.data.splits import Split
from sonodetr.files import InputError
from sonodetr.model.decode import detections_of
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Batch, Target
from sonodetr.set_loss import generalised_iou
from sonodetr.training import fit
from sonodetr.training.data import Data, load_batches, open_data
from sonodetr.training.fit import Trainer, train
from sonodetr.training.run import load_run
from sonodetr.training.tasks import Detection
from sonodetr.types import Labels, Video


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def weights(folder, name="last"):
    return load_file(folder / f"{name}.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_run_folder(tiny, tmp_path, monkeypatch):
    kept = {}
    keep = Trainer._keep_best

    def keeping(self, *values):
        keep(self, *values)
        kept["model"] = {k: v.clone() for k, v in self.average.state.items()}
        kept["step"] = self.progress.step

    monkeypatch.setattr(Trainer, "_keep_best", keeping)
    config = tiny(seed=5)
    folder = train(config, tmp_path)
    assert folder == tmp_path / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "model.safetensors", "last.safetensors", "run.json", "split.json",
        "metrics.jsonl", "checkpoint.safetensors", "batch.png", "validation.png", "tensorboard",
        "recordings.json",
    }  # fmt: skip
    assert list((folder / "tensorboard").glob("events*"))
    assert cv2.imread(str(folder / "batch.png")).shape == (64, 130, 3)  # two clips, 2 px between
    assert cv2.imread(str(folder / "validation.png")).std() > 10
    info = json.loads((folder / "run.json").read_text())
    assert info["classes"] == list(CLASSES)
    assert 0 <= info["threshold"] <= 1
    assert info["provenance"]["seed"] == 5
    assert len(info["provenance"]["git_revision"].removesuffix("-dirty")) == 40
    assert info["provenance"]["versions"]["torch"] == torch.__version__
    division = json.loads((folder / "split.json").read_text())
    assert {part: len(keys) for part, keys in division.items()} == {
        "train": 5, "validation": 3, "test": 4,
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 3, 6, 6, 9, 9]
    assert [line["epoch"] for line in lines[::2]] == [1, 2, 3]
    assert lines[0]["rate"] == 2e-3  # warm-up is over, the cosine begins
    total = sum(
        lines[0][f"train/{k}"] for k in ("classification", "box_l1", "box_giou", "points", "dense")
    )
    assert lines[0]["train/loss"] == pytest.approx(total, rel=1e-5)

    model, loaded_config, loaded = load_run(folder)
    assert loaded_config == config
    assert (loaded.step, loaded.classes) == (kept["step"], CLASSES)
    best = DETR(config.model, 2)
    best.load_state_dict(kept["model"])
    data = open_data(config)
    (batch,) = load_batches(data.validation(), [[(0, 0), (0, 1), (0, 2)]], workers=0)
    with torch.no_grad():
        found = [
            detections_of(each.eval()(batch.images), batch.sources, (64, 64), CLASSES, "focal")
            for each in (model, best)
        ]
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.boxes_xyxy_px, other.boxes_xyxy_px)
        assert np.array_equal(one.scores, other.scores)


def test_seed_decides_the_bits_and_workers_do_not(tiny, tmp_path):
    short = {"epochs": 1}
    first = weights(train(tiny(train=short, name="a"), tmp_path))
    for workers in (1, 2):
        config = tiny(train={"workers": workers, **short}, name=f"workers{workers}")
        assert same(weights(train(config, tmp_path)), first)
    other = weights(train(tiny(train=short, name="other", seed=1), tmp_path))
    assert not torch.equal(other["class_head.weight"], first["class_head.weight"])


def test_fp16_without_a_gpu_is_refused(tiny, tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(InputError, match="'fp16' needs a GPU"):
        train(tiny(train={"precision": "fp16"}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_mixed_precision_trains_and_resumes(start, tiny, tmp_path):
    config = tiny(train={"precision": "bf16"})
    undisturbed = start(config, tmp_path / "through")
    assert undisturbed.wait() == 0, undisturbed.said()
    half = tmp_path / "through" / "tiny"
    plain = train(tiny(), tmp_path / "plain")
    assert weights(half)["class_head.weight"].dtype == torch.float32
    assert not same(weights(half), weights(plain))
    lines = [(run / "metrics.jsonl").read_text().splitlines()[0] for run in (half, plain)]
    losses = [json.loads(line)["train/loss"] for line in lines]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    killed = start(config, tmp_path / "killed", changes=[partial(die_after, 5)])
    assert killed.wait() == -signal.SIGKILL, killed.said()
    resumed = start(config, tmp_path / "killed", resume=True)
    assert resumed.wait() == 0, resumed.said()
    assert contents(tmp_path / "killed" / "tiny") == contents(half)


def test_frozen_backbone_keeps_weights_and_statistics(tiny, tmp_path):
    source = train(tiny(train={"epochs": 1}, name="source"), tmp_path)
    config = tiny(model={"weights": str(source)}, train={"epochs": 1, "backbone_rate": 0.0})
    before, after = weights(source, "model"), weights(train(config, tmp_path))
    frozen = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    head = "dense_head.box_head.0.weight"
    assert not torch.equal(before[head], after[head])


class Guarded:
    """Pictures of one recording; some must not be looked at."""

    size = (64, 64)

    def __init__(self, forbidden):
        self.forbidden = forbidden

    def __len__(self):
        return 9

    def __getitem__(self, index):
        assert index not in self.forbidden, f"frame {index} is held out"
        return np.random.default_rng(index).integers(0, 255, self.size).astype(np.uint8)


def test_test_frames_are_never_seen(tiny, tmp_path, monkeypatch):
    labels = {i: Labels.of([[5 * i, 7, 5 * i + 20, 31]], [0]) for i in range(9)}
    video = Video("clip", Guarded({6, 7, 8}), np.arange(9.0), ("needle",), labels)
    parts = Split(*([(0, frame) for frame in part] for part in ((0, 1, 2, 3), (4, 5), (6, 7, 8))))
    monkeypatch.setattr(fit, "open_data", lambda config: Data([video], parts, config))
    # Comparing the parts with each other is the one thing that looks at all of them.
    monkeypatch.setattr(fit, "near_identical_across", lambda *_: ["a warning"])
    folder = train(tiny(data={"region": "full"}), tmp_path)
    assert json.loads((folder / "run.json").read_text())["validation"]["frames"] == 2


@pytest.fixture
def measured(monkeypatch):
    """Lets a test say which AP the validations find."""

    def say(values):
        values = iter(values)
        metrics_of = fit.metrics_of

        class Scored:
            def __init__(self, metrics, ap):
                self.ap, self.ap50, self.to_dict = ap, ap, metrics.to_dict

        monkeypatch.setattr(fit, "metrics_of", lambda m: Scored(metrics_of(m), next(values)))

    return say


def test_best_is_kept_and_patience_runs_out(tiny, tmp_path, measured, capsys):
    measured([0.1, 0.3, 0.2, 0.3, 0.9])
    folder = train(tiny(train={"epochs": 5, "patience": 2}), tmp_path)
    # The equal one of epoch 4 is newer and kept, but no better, so the second wait ends there.
    assert json.loads((folder / "run.json").read_text())["step"] == 12
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 8
    said = capsys.readouterr().err
    assert "no better AP in 2 validations: stopped early" in said
    assert "epoch 2 of 5  AP 0.300" in said
    train(tiny(train={"epochs": 5, "patience": 2}), tmp_path, resume=True)
    assert "this run is complete: step 12 of 15" in capsys.readouterr().err


def test_not_a_number_names_the_frames_and_spoils_nothing(tiny, tmp_path, monkeypatch):
    task, calls = fit.Detection.__call__, []

    def poisoned(self, model, batch, done):
        calls.append([source.key for source in batch.sources])
        named = task(self, model, batch, done)
        return named if len(calls) < 5 else named | {"loss": named["loss"] * float("nan")}

    monkeypatch.setattr(fit.Detection, "__call__", poisoned)
    with pytest.raises(InputError, match="not finite at step 4") as error:
        train(tiny(), tmp_path)
    assert "\n" not in str(error.value)
    assert all(key in str(error.value) for key in calls[4])
    assert len(calls) == 5
    for path in (tmp_path / "tiny").glob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path
    progress = bytes(load_file(tmp_path / "tiny" / "checkpoint.safetensors")["progress"].tolist())
    assert json.loads(progress)["step"] == 4


def test_infinite_weights_are_noticed(tiny, tmp_path):
    with pytest.raises(InputError, match=r"not finite at step \d+ .*lower train.learning_rate"):
        train(tiny(train={"learning_rate": 1e30, "warmup_steps": 0}), tmp_path)


def test_fine_tuning_with_other_classes(tiny, tmp_path, capsys):
    source = train(tiny(train={"epochs": 1}, name="source"), tmp_path)
    folder = tmp_path / "three"
    folder.mkdir()
    path = write_stills(folder, ("nerve", "vessel", "needle"))
    capsys.readouterr()
    config = tiny(data={"path": str(path)}, model={"weights": str(source)}, train={"epochs": 1})
    assert load_run(train(config, tmp_path))[2].classes == ("nerve", "vessel", "needle")
    said = capsys.readouterr().err
    assert f"{source}: taken over " in said
    assert "new: dense_head.class_head.2 (2 -> 3), class_head (2 -> 3)" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_picture_is_one_line(workers, tiny, tmp_path, capfd):
    path = write_stills(tmp_path)
    config = tiny(data={"path": str(path)}, train={"workers": workers, "epochs": 1})
    key = open_data(config)
    video, _ = key.split.train[0]
    picture = tmp_path / f"still{video:02}.png"
    whole = picture.read_bytes()
    reading = fit.Trainer._training_batches

    def cut(self):
        picture.write_bytes(whole[:300])
        return reading(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.Trainer, "_training_batches", cut)
        with pytest.raises(InputError, match=picture.name) as error:
            train(config, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def _pickled(folder):
    (folder / "model.pth").write_bytes(b"pickle")
    return {"model": {"weights": str(folder / "model.pth")}}


def _unfit(folder):
    save_file({"other": torch.zeros(3)}, folder / "other.safetensors")
    return {"model": {"weights": str(folder / "other.safetensors")}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: {"model": {"weights": str(folder / "absent")}}, "no such file"),
        (_pickled, "must be .safetensors"),
        (_unfit, "none of the 1 tensors fits"),
        (lambda folder: {"data": {"path": str(folder / "absent.json")}}, "absent.json"),
        (lambda folder: {"data": {"path": ""}}, "data.path is empty"),
        (
            lambda folder: {"data": {"clip_frames": 3, "clip_step": 2}},
            r"reach back 4 frames, but the longest recording in .* has 1; set data.clip_frames=1",
        ),
        (lambda folder: {"data": {"split": {"folds": 40}}}, "folds"),
        (lambda folder: {"model": {"num_queries": 1}}, "set model.num_queries=2 or more"),
    ],
)
def test_what_cannot_be_used_leaves_no_folder(change, message, tiny, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        train(tiny(**change(tmp_path)), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_is_never_overwritten(tiny, tmp_path):
    config = tiny(train={"epochs": 1})
    folder = train(config, tmp_path)
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(InputError, match="continue it with --resume"):
        train(config, tmp_path)
    with pytest.raises(InputError, match="started with another config"):
        train(tiny(train={"epochs": 2}), tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in folder.glob("*.*")}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        train(tiny(name="notes"), tmp_path)
    (folder / "split.json").write_text('{"train": {}, "validation": {}, "test": {}}')
    with pytest.raises(InputError, match="the data is now divided differently"):
        train(config, tmp_path, resume=True)
    (folder / "split.json").unlink()
    checkpoint = folder / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        train(config, tmp_path, resume=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_leaves_a_run_that_can_be_continued(workers, start, tiny, tmp_path):
    config = tiny(train={"workers": workers, "epochs": 40})
    begun = start(config, tmp_path)
    checkpoint = tmp_path / "tiny" / "checkpoint.safetensors"
    while not checkpoint.is_file():
        assert begun.process.exitcode is None, begun.said()
        time.sleep(0.05)
    os.killpg(begun.process.pid, signal.SIGINT)  # the terminal sends it to the workers too
    asked = time.monotonic()
    assert begun.wait() == 130, begun.said()
    assert time.monotonic() - asked < 10
    assert "Traceback" not in begun.said()
    short = start(config, tmp_path, resume=True, changes=[stop_at_next_epoch])
    assert short.wait() == 0, short.said()
    assert "goes on after step" in short.said()


def test_full_disk_keeps_the_old_checkpoint(start, tiny, tmp_path):
    config = tiny()
    begun = start(config, tmp_path, changes=[fill_disk_at_second_checkpoint])
    assert begun.wait() == 2, begun.said()
    (line,) = [line for line in begun.said().splitlines() if line.startswith("error")]
    assert "checkpoint.safetensors" in line
    assert "Traceback" not in begun.said()
    assert not list((tmp_path / "tiny").glob(".*"))
    resumed = start(config, tmp_path, resume=True)
    assert resumed.wait() == 0, resumed.said()
    assert "goes on after step 1 of 9" in resumed.said()


def test_proposals_and_queries_find_what_they_are_shown():
    """Three pictures with a bright box each, two classes by brightness, learnt by heart."""
    torch.manual_seed(0)
    boxes = torch.tensor(
        [[0.25, 0.375, 0.25, 0.25], [0.625, 0.5, 0.5, 0.25], [0.5, 0.75, 0.25, 0.375]]
    )
    images, targets = torch.rand(4, 1, 1, 64, 64) * 0.2, []
    for clip, (x, y, width, height) in enumerate((64 * boxes).tolist()):
        rows = slice(int(y - height / 2), int(y + height / 2))
        columns = slice(int(x - width / 2), int(x + width / 2))
        images[clip, 0, 0, rows, columns] += 0.4 + 0.4 * (clip % 2)
        unknown = torch.full((1, 2, 2), torch.nan)
        targets.append(Target(boxes[clip : clip + 1], torch.tensor([clip % 2]), unknown))
    targets.append(Target(boxes[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2)))
    model = DETR(
        ModelConfig(
            backbone=BackboneConfig(width=8, depths=(1, 1, 1, 1)),
            **{"hidden_dim": 32, "num_heads": 2, "feedforward_dim": 32, "num_queries": 5},
            **{"encoder_layers": 1, "decoder_layers": 1, "query_groups": 2, "dropout": 0.0},
        ),
        2,
    )
    task = Detection(LossConfig(), "focal", Accelerator(cpu=True))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    batch = Batch(images, targets, [])
    for _ in range(60):
        named = task(model.train(), batch, 0.0)
        optimizer.zero_grad()
        named["loss"].backward()
        optimizer.step()
    parts = [named[name] for name in ("classification", "box_l1", "box_giou", "points", "dense")]
    torch.testing.assert_close(named["loss"], sum(parts))
    with torch.no_grad():
        outputs = model.eval()(images)
    for logits, found in (
        (outputs.logits[-1], outputs.boxes_cxcywh[-1]),
        (outputs.dense.logits, outputs.dense.boxes_cxcywh),
    ):
        scores, best = logits.sigmoid().amax(-1).max(-1)
        assert scores[3] < scores[:3].min()
        for clip in range(3):
            assert logits[clip, best[clip]].argmax() == clip % 2
            assert generalised_iou(found[clip, best[clip]], boxes[clip]) > 0.6


def test_proposals_with_points_in_mixed_precision(tiny, tmp_path):
    """With a still without objects."""
    config = tiny(model={"points": True}, train={"precision": "bf16"})
    folder = train(config, tmp_path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/dense"] for line in lines if "train/dense" in line]
    assert len(losses) == 3
    assert 0 < losses[2] < losses[0]
    assert load_run(folder)[0].dense_head.point_head is not None
