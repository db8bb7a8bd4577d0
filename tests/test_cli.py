"""The command line in this process: what verbs write and print, and one line for every mistake."""

import json
import os
import re
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch

from sonodetr import __version__, cli
from sonodetr.cli import run
from sonodetr.files import InputError
from sonodetr.formats import open_source, read
from sonodetr.simulator.datasets import configure
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

LOOK = {"clips": 7, "frames": 3, "image_size": (64, 64)}


def test_train_evaluate_info(answer, tiny_training, tmp_path, capsys):
    trained = answer("train", tiny_training, "train.epochs=1", "name=a", "--out", tmp_path)
    assert trained["run"] == str(tmp_path / "a")
    assert trained["classes"] == ["nerve"]
    assert set(trained["validation"]) >= {"ap", "ap50"}

    data = tiny_training.parent / "coco.json"
    measured = answer("evaluate", tmp_path / "a", data, "--split", "test")
    assert 0 <= measured["figures"]["ap"] <= 1
    assert (tmp_path / "a" / "evaluation-test" / "precision_recall.png").is_file()

    about = answer("info", tmp_path / "a")
    assert about["image_size"] == [64, 64]
    assert about["parameters"] > 50_000
    assert about["gflops"] > 0
    assert about["provenance"]["seed"] == 0

    assert run(["train", str(tiny_training), "name=a", "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_keypoints_come_back_as_tip_and_entry(answer, tiny_training, tmp_path):
    """From COCO keypoints to training, to figures of instruments, to points in detections.jsonl."""
    folder = tmp_path / "needles"
    shutil.copytree(tiny_training.parent, folder)
    document = json.loads((folder / "coco.json").read_text())
    for number, label in enumerate(document["annotations"]):
        x, y, width, height = label["bbox"]
        label["keypoints"] = [x + width, y + height, 2, x, y, 2 * (number % 2)]  # some unknown
    (folder / "coco.json").write_text(json.dumps(document))
    words = (f"data.path={folder / 'coco.json'}", "model.points=true", "name=a", "train.epochs=1")
    answer("train", tiny_training, *words, "--out", tmp_path)
    logged = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["train/points"] > 0

    measured = answer("evaluate", tmp_path / "a", folder / "coco.json")
    assert measured["instruments"]["tip_unit"] == "px"
    assert measured["instruments"]["all"]["tips"] == 13
    assert 0 <= measured["intervals"]["figures"]["detected"]["value"] <= 1

    picture, out = folder / "0.png", tmp_path / "p"
    answer("predict", tmp_path / "a", picture, "--out", out, "--threshold", 0.0)
    found = json.loads((out / "detections.jsonl").read_text())["detections"]
    points = np.array([one["points_px"] for one in found])
    assert points.shape == (7, 2, 2)
    assert (points >= 0).all()
    assert (points <= (67, 61)).all()
    assert (cv2.imread(str(out / "overlay.png")) > 0).any()


def test_predict_video(answer, tiny_run, tiny_video, tmp_path):
    result = answer("predict", tiny_run, tiny_video, "--out", tmp_path / "p", "--threshold", 0.0)
    assert result["frames"] == 13
    assert result["detections"] == 13 * 14  # 7 queries x 2 classes
    assert result["files"] == [str(tmp_path / "p" / n) for n in ("detections.jsonl", "overlay.mp4")]
    lines = (tmp_path / "p" / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(13))
    assert json.loads(lines[12])["time_s"] == pytest.approx(12 / 17, abs=1e-3)


def test_predict_picture(answer, tiny_run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((71, 99), 180, np.uint8))
    words = ("predict", tiny_run, tmp_path / "a.png", "--out", tmp_path / "p")
    answer(*words, "--region", "10,20,60,50", "--threshold", 1)
    overlay = cv2.imread(str(tmp_path / "p" / "overlay.png"))
    assert (overlay[20:50, 10:60] == 180).all()
    assert overlay.sum() == 3 * 180 * 30 * 50  # all around is black
    answer(*words, "--region", "10,20,60,50", "--threshold", 1, "--show-outside")
    assert (cv2.imread(str(tmp_path / "p" / "overlay.png")) == 180).all()


def test_predict_simulated(answer, tiny_run, tmp_path):
    words = ("predict", tiny_run, "simulator:needle-small/test/3", "--out", tmp_path / "p")
    result = answer(*words, "--threshold", 0)
    assert (result["source"], result["frames"]) == ("simulator:needle-small/test/3", 8)


def test_simulate(answer, tmp_path):
    words = ("--clips", 2, "--frames", 3, "--size", 64, "--rate", 5, "--seed", 3, "--workers", 1)
    result = answer("simulate", tmp_path / "a", *words)
    assert result["files"] == [str(tmp_path / "a" / "coco.json")]
    settings = result["parts"][""]
    assert settings["image_size"] == [64, 64]
    assert (settings["clips"], settings["seed"], settings["frame_rate_hz"]) == (2, 3, 5.0)
    videos = read(tmp_path / "a")
    assert [(video.key, len(video)) for video in videos] == [("clip-00000", 3), ("clip-00001", 3)]
    assert videos[0].frame_rate_hz == pytest.approx(5)


@pytest.fixture
def tiny_set(monkeypatch):
    """A named data set of one clip a part."""
    parts = {
        name: SimulatorConfig(clips=1, frames=2, image_size=(64, 64), seed=seed)
        for seed, name in enumerate(("train", "validation", "test", "shifted"))
    }
    monkeypatch.setattr("sonodetr.simulator.datasets.DATA_SETS", {"tiny": parts})


def test_simulate_a_named_set(answer, tiny_set, tmp_path):
    answer("simulate", tmp_path, "--set", "tiny", "--workers", 1)
    names = [f"{part}/clip-00000" for part in ("train", "validation", "test")]
    assert [video.key for video in read(tmp_path)] == names
    assert [video.key for video in read(tmp_path / "shifted")] == ["shifted/clip-00000"]
    (tmp_path / "test" / "coco.json").unlink()
    for folder in (tmp_path, tmp_path / "test"):
        with pytest.raises(InputError, match="test: simulated data that is not finished"):
            read(folder)


def test_no_part_is_begun_where_one_is_refused(refused, tiny_set, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.json").write_text("{}")
    assert "holds other recordings or labels" in refused("simulate", tmp_path, "--set", "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_train_on_simulated_data(answer, tiny_set, tiny_training, tmp_path):
    """Pictures are made when the training asks for them, here by a worker process."""
    data = ("data.path=simulator:tiny", "data.split.by_folder=true", "model.points=true")
    answer("train", tiny_training, *data, "train.workers=1", "name=a", "--out", tmp_path)
    measured = answer("evaluate", tmp_path / "a", "simulator:tiny", "--split", "test")
    assert [row["key"] for row in measured["recordings"]] == ["test/clip-00000"]
    measured = answer("evaluate", tmp_path / "a", "simulator:tiny/shifted")
    assert [row["key"] for row in measured["recordings"]] == ["shifted/clip-00000"]


def test_simulate_a_preview(answer, tiny_set, tmp_path):
    result = answer("simulate", tmp_path, "--clips", 7, "--frames", 3, "--size", 64, "--preview")
    assert result["files"] == [str(tmp_path / "preview.png"), str(tmp_path / "preview.mp4")]
    assert {path.name for path in tmp_path.iterdir()} == {"preview.png", "preview.mp4"}
    # Six columns of a picture and its labelled copy, two rows, with 2 px between.
    sheet = cv2.imread(str(tmp_path / "preview.png"))
    assert sheet.shape == (2 * 66 - 2, 6 * 130 - 2, 3)
    assert (sheet[:64, :64] == draw_recording(configure(**LOOK), 0).pictures()[1, ..., None]).all()
    assert len(open_source(tmp_path / "preview.mp4")) == 51  # 17 times 3 frames at 10 Hz
    answer("simulate", tmp_path / "set", "--set", "tiny", "--preview")
    assert "preview-shifted.mp4" in {path.name for path in (tmp_path / "set").iterdir()}


def test_hashes_of_simulated_data(answer, tiny_set, capsys):
    rows = answer("simulate", "--set", "tiny", "--hash")["hashes"]
    assert list(rows) == ["train", "validation", "test", "shifted"]
    assert len({row["labels"] for row in rows.values()}) == 4
    assert run(["simulate", "--set", "tiny", "--hash"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 5
    assert table[1].split() == ["train", "1", rows["train"]["labels"], rows["train"]["pixels"]]


def test_predict_without_overlay(answer, tiny_run, tiny_video, tmp_path):
    answer("predict", tiny_run, tiny_video, "--out", tmp_path / "p", "--no-video")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["detections.jsonl"]


def test_text_and_json_file(tiny_run, tiny_video, tmp_path, capsys):
    words = ["predict", tiny_run, tiny_video, "--out", tmp_path, "--json", tmp_path / "a.json"]
    assert run([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "in 13 frames" in out
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == 13


def test_info_of_the_installation(answer, capsys):
    about = answer("info")
    assert about["versions"]["sonodetr"] == __version__
    assert about["devices"][0].startswith("cpu")
    assert ".mp4" in about["recordings"]["video"]
    assert run(["info"]) == 0
    assert f"  torch: {torch.__version__}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pedict"], "Did you mean 'predict'"),
        (["predict", "a", "b", "--threshhold", "1"], "--threshold"),
        (["predict", "a"], "Missing argument 'SOURCE'"),
        (["predict", "a", "b"], "Missing option '--out'"),
        (["predict", "a", "b", "--out", "c", "--threshold", "1.5"], "give a score from 0 to 1"),
        (
            ["predict", "a", "b", "--out", "c", "--threshold", "nan"],
            "--threshold nan is not allowed",
        ),
        (["predict", "a", "b", "--out", "c", "--region", "1,2,3"], "auto, full or x0,y0,x1,y1"),
        (["evaluate", "a", "b", "--split", "tst"], "'train', 'validation', 'test'"),
        (["simulate"], "no folder is named"),
        (["simulate", "a", "--size", "0"], "--size"),
        (["simulate", "a", "--empty", "2"], "--empty"),
        (["simulate", "a", "--domain", "real"], "'standard', 'shifted'"),
        (["simulate", "a", "--set", "needel"], "did you mean 'needle'"),
        (["simulate", "a", "--set", "needle", "--seed", "3"], "leave out --seed, or --set"),
        (["predict", "a", "simulator:nedle", "--out", "c"], "no such run folder"),
        (["evaluate", "a", "simulator:nedle"], "'nedle' is no simulated data set"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["info", "nowhere"], "nowhere: no such run folder, and"),
        (["--nonsense"], "sonodetr --help"),
    ],
)
def test_wrong_words(refused, words, message):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train.epochs='3'", "train.epochs: '3' is not allowed"),
        ("data.path=/nowhere", "/nowhere: no such file"),
        ("epochs", "write section.key=value"),
    ],
)
def test_training_that_cannot_begin(refused, tiny_training, tmp_path, word, message):
    assert message in refused("train", tiny_training, word, "--out", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.mp4", b""),
        ("a.mp4", b"not a video at all" * 100),
        ("a.png", b""),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("a.dcm", bytes(128) + b"DICM" + bytes(9)),
        ("a.mha", b"ObjectType = Image\n"),
        ("a.xyz", b"1"),
    ],
)
def test_sources_that_cannot_be_read(refused, tiny_run, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    line = refused("predict", tiny_run, tmp_path / name, "--out", tmp_path / "out")
    assert str(tmp_path / name) in line
    assert not (tmp_path / "out").exists()


def test_video_cut_short(tiny_run, tiny_video, tmp_path, capsys):
    """What is left of it is used, or it is refused in one line; never half a result."""
    data = tiny_video.read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
        words = ["predict", str(tiny_run), str(tmp_path / "cut.mp4"), "--out", str(tmp_path / "p")]
        code = run(words)
        assert code in (0, 2)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        if code == 2:
            assert err.count("\n") == 1
            assert not list((tmp_path / "p").glob("*"))


def test_models_that_cannot_be_used(refused, tiny_run, tiny_video, tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.pt")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_run / "config.yaml", bare)
    for model, message in (
        (tmp_path / "model.pt", "pickled checkpoints are not opened"),
        (tmp_path / "nowhere", "no such run folder"),
        (bare, "has no model.safetensors yet"),
    ):
        line = refused("predict", model, tiny_video, "--out", tmp_path / "out")
        assert str(model) in line
        assert message in line
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(refused, tiny_run, tiny_video, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "cannot write" in refused("predict", tiny_run, tiny_video, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_results_never_replace_what_is_read(refused, tiny_run, tiny_video, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    film = shutil.copy(tiny_video, out / "overlay.mp4")
    before = film.read_bytes()
    said = "is what is read"
    assert said in refused("predict", tiny_run, film, "--out", out)
    assert said in refused("predict", tiny_run, film, "--out", tmp_path, "--json", film)
    assert said in refused("live", tiny_run, film, "--no-viewer", "--fast", "--sink", film)
    assert said in refused("evaluate", tiny_run, film, "--json", film)
    assert film.read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["overlay.mp4"]


def test_json_never_replaces_the_results(refused, tiny_run, tiny_video, tmp_path):
    out, lines = tmp_path / "out", tmp_path / "l.jsonl"
    lines.write_text("{}\n")
    for word in ("predict", "evaluate"):
        name = {"predict": "detections.jsonl", "evaluate": "evaluation.json"}[word]
        said = refused(word, tiny_run, tiny_video, "--out", out, "--json", out / name)
        assert "is what is written anyway" in said
    (tmp_path / "link.jsonl").symlink_to(lines)
    live = ("live", tiny_run, tiny_video, "--no-viewer", "--fast", "--sink", lines)
    assert "is what is written anyway" in refused(*live, "--json", tmp_path / "link.jsonl")
    assert lines.read_text() == "{}\n"
    for words in (["simulate", out, "--clips", 2], ["export", tiny_run, out]):
        assert "outside of it" in refused(*words, "--json", out / "coco.json")
    assert not out.exists()


def test_json_into_a_pipe_and_not_into_a_folder(refused, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run(["info", "--json", str(tmp_path / "pipe")]) == 0
    assert json.loads(os.read(reader, 1_000_000))["versions"]
    os.close(reader)
    capsys.readouterr()
    assert "is a folder; give the name of a file" in refused("info", "--json", tmp_path)


def test_extra_that_is_missing(refused, monkeypatch, tmp_path, tiny_run):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    for name in [n for n in sys.modules if n.startswith(("pydicom", "sonodetr.formats.dicom"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    line = refused("predict", tiny_run, tmp_path / "a.dcm", "--out", tmp_path / "out")
    assert re.search(r"pip install ['\"]sonodetr\[dicom\]", line)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "sonodetr: stopped\n"),
        (OSError(28, "No space left on device", "x.json"), 2, "cannot write x.json: No space"),
        (PermissionError(13, "Permission denied", "x"), 2, "x: cannot be used (Permission denied)"),
    ],
)
def test_what_the_machine_says(monkeypatch, capsys, error, code, message):
    def fail():
        raise error

    monkeypatch.setattr("sonodetr.about.installation", fail)
    assert run(["info"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), OSError(5, "I/O")])
def test_a_bug_shows_itself(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("sonodetr.about.installation", fail)
    with pytest.raises(type(error)):
        run(["info"])


def test_packages_of_extras_are_named_once():
    extras = {"train", "dicom", "huggingface", "supervision", "onnx", "openvino", "export", "live"}
    extras |= {"ray"}
    assert set(cli._EXTRAS.values()) == extras
