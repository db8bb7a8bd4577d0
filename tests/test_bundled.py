"""Models that come with the package are opened by name wherever a run folder is."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import sonodetr
from sonodetr import bundled
from sonodetr.bundled import MODELS, model_folder, model_names, preset_file
from sonodetr.files import InputError, read_json
from sonodetr.geometry import box_iou


@pytest.fixture
def models(tiny_run, tmp_path, monkeypatch):
    """Two bundled models, in a working folder that holds neither."""
    folder = tmp_path / "package" / "models"
    for name in ("nano", "tiny"):
        shutil.copytree(tiny_run, folder / name)
    (folder / "unfinished").mkdir()
    monkeypatch.setattr(bundled, "MODELS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_by_name(models):
    assert model_names() == ["nano", "tiny"]
    assert model_folder("nano") == models / "nano"
    assert sonodetr.load("nano").class_names == ("nerve", "vessel")


def test_a_path_that_exists_wins(models, tmp_path):
    (tmp_path / "nano").mkdir()
    assert model_folder("nano") == Path("nano")
    assert model_folder(tmp_path / "nano") == tmp_path / "nano"


@pytest.mark.parametrize("name", ["nanno", "runs/nano", "unfinished", "../models/nano"])
def test_unknown_names(models, name):
    with pytest.raises(InputError, match=f"^{name}: no such run folder, and no bundled .*nano, ti"):
        model_folder(name)


def test_none_is_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "MODELS", tmp_path / "absent")
    assert model_names() == []
    with pytest.raises(InputError, match="nano: no such run folder, and no model is bundled"):
        sonodetr.load("nano")


@pytest.mark.parametrize("name", model_names())
def test_the_data_of_each_is_divided(name):
    division = read_json(MODELS / name / "split.json")
    assert {part: len(videos) for part, videos in division.items()} == {
        "train": 300,
        "validation": 60,
        "test": 120,
    }


def test_unknown_preset():
    with pytest.raises(InputError, match="no preset 'tinny'; did you mean 'tiny'"):
        preset_file("tinny")


def test_verbs_that_look_at_frames(models, answer, tiny_training, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((71, 99), 180, np.uint8))
    words = ("a.png", "--threshold", 0)
    assert answer("predict", "nano", *words, "--out", "p")["detections"] == 14
    live = answer("live", "tiny", *words, "--no-viewer", "--fast")
    assert live["model"] == "tiny"
    with pytest.MonkeyPatch.context() as patch:  # the data knows one class only: nerve
        patch.setattr("sonodetr.evaluation.evaluate.RESAMPLES", 13)
        answer("evaluate", "nano", tiny_training.parent / "coco.json")
    assert (tmp_path / "nano-evaluation-all" / "evaluation.json").is_file()
    assert len(list((models / "nano").iterdir())) == 3  # nothing is written into the package


def test_info(models, answer):
    assert answer("info")["models"] == ["nano", "tiny"]
    assert answer("info", "nano")["image_size"] == [64, 96]


@pytest.mark.parametrize(
    ("words", "opens"),
    [
        (("export", "nano", "out"), "sonodetr.export.convert.load_checked"),
        (("benchmark", "nano"), "sonodetr.benchmark.artefacts._runs"),
    ],
)
def test_verbs_that_trace_a_graph(models, refused, monkeypatch, words, opens):
    def stop(folder, *_):
        raise InputError(f"opened {folder}")  # tracing takes seconds, and has tests of its own

    monkeypatch.setattr(opens, stop)
    assert f"opened {models / 'nano'}" in refused(*words)


def test_a_bundled_teacher(models, refused, answer, tiny_training, tmp_path):
    said = refused("distill", tiny_training, "--teacher", "nanno")
    assert "nanno: no such run folder, and no bundled model; did you mean 'nano'?" in said
    words = ("train.epochs=1", "data.image_size=[64,96]", "distill.encoder.weight=1")
    answer("distill", tiny_training, *words, "--teacher", "nano", "--out", tmp_path / "runs")
    written = sonodetr.load_config(tmp_path / "runs" / "tiny" / "config.yaml")
    assert written.distill.teacher == str(models / "nano")


def test_a_bundled_start(models, refused, answer, tiny_training, tmp_path):
    said = refused("train", tiny_training, "model.weights=nanno")
    assert "nanno: no such run folder, and no bundled model; did you mean 'nano'?" in said
    words = ("train.epochs=1", "data.image_size=[64,96]", "model.weights=nano")
    answer("train", tiny_training, *words, "--out", tmp_path / "runs")
    written = sonodetr.load_config(tmp_path / "runs" / "tiny" / "config.yaml")
    assert written.model.weights == str(models / "nano")


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_the_package_brings_models_that_find_needles(name):
    model = sonodetr.load(name)
    wanted = right = 0
    for number in range(8):
        (video,) = sonodetr.read(f"simulator:needle-small/test/{number}")
        for found in model.predict(video):
            labels = video.labels[found.frame_index].boxes_xyxy_px
            wanted += len(labels)
            if len(labels) and len(found.scores):
                right += int((box_iou(labels, found.boxes_xyxy_px) > 0.5).any(axis=1).sum())
    assert wanted == 46
    assert right > 0.6 * wanted
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    assert "Not a medical device" in card
