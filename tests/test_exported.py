"""Exported folders wherever a model is asked for, and one line for each that cannot be used."""

import json
import shutil
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from exported import CLASSES, HEIGHT, WIDTH, write_exported

from sonodetr.contract import CONTRACT, read_contract, write_contract
from sonodetr.files import InputError
from sonodetr.predictor import load
from sonodetr.types import Frame, Region

RUNTIMES = ("onnx", "openvino")


@pytest.fixture(scope="module", params=RUNTIMES)
def still(request, tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("exported") / request.param, request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven stills that are brighter and brighter, with the box that is found in all of them."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = [], []
    for number in range(7):
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH), 30 * number + 70, np.uint8))
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        box = {"bbox": [0, 0, WIDTH, HEIGHT], "area": WIDTH * HEIGHT, "iscrowd": 0}
        labels.append({"id": number + 1, "image_id": number, "category_id": 1, **box})
    names = [{"id": 1, "name": CLASSES[0]}]
    document = {"images": images, "annotations": labels, "categories": names}
    (folder / "coco.json").write_text(json.dumps(document))
    return folder / "coco.json"


def test_a_region_of_a_screen(still):
    """As wide as the input and less high, so that there are bars of 4 pixels above and below."""
    model = load(still, threads=1)
    assert model.class_names == CLASSES
    assert model.image_size == (HEIGHT, WIDTH)
    screen = np.full((90, 110), 255, np.uint8)
    screen[20:44, 40:88] = 170
    frame = Frame(screen, 3, 0.5, region_px=Region(40, 20, 88, 44))
    (found,) = model.predict([frame], threshold=0.0)
    light = 170 / 255 * 24 / 32
    np.testing.assert_allclose(found.scores, [light, light / 2], rtol=1e-5)
    centre_x = 40 + WIDTH * light
    np.testing.assert_allclose(
        found.boxes_xyxy_px, [[centre_x - 6, 24, centre_x + 6, 40], [40, 20, 88, 44]], rtol=1e-5
    )
    np.testing.assert_allclose(found.points_px[0], [[52, 32], [76, 44]])  # one was in the bar
    assert (found.frame_index, found.time_s) == (3, 0.5)
    assert len(next(model.predict([frame], threshold=0.3))) == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("two_graphs", [False, True])
def test_live_frames_are_computed_once(runtime, two_graphs, tmp_path):
    folder = write_exported(tmp_path / "a", runtime, 3, two_graphs=two_graphs, clip_step=2)
    model = load(folder, threads=1)
    calls, see = [], model.engine.see
    model.engine.see = lambda picture: calls.append(1) or see(picture)
    greys = (30, 60, 90, 120, 150, 180)
    frames = [np.full((HEIGHT, WIDTH), grey, np.uint8) for grey in greys]
    found = list(model.predict(frames, threshold=0.0))
    assert len(calls) == 6
    np.testing.assert_allclose([one.scores[0] for one in found], np.array(greys) / 255, rtol=1e-5)
    oldest = np.array([30, 30, 30, 30, 30, 60]) / 255 * WIDTH  # two steps back
    box = np.stack([one.boxes_xyxy_px[0] for one in found])
    np.testing.assert_allclose((box[:, 0] + box[:, 2])[5:] / 2, oldest[5:], rtol=1e-5)
    np.testing.assert_allclose(box[:5, 2], oldest[:5] + WIDTH / 8, rtol=1e-5)  # cut off at 0


def test_predict(still, tiny_video, answer, tmp_path):
    result = answer("predict", still, tiny_video, "--out", tmp_path / "out", "--no-video")
    assert result["frames"] == 13
    assert result["threshold"] == 0.25
    lines = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert json.loads(lines[12])["detections"][0]["class"] == "vessel"


def test_evaluate(still, data, answer, refused, tmp_path):
    out = ("--out", tmp_path / "out")
    result = answer("evaluate", still, data, *out)
    assert result["figures"]["frames"] == 7
    # Always class 0 with the box of the whole frame, the only one of its class.
    assert result["figures"]["classes"]["nerve"]["ap"] == 1
    line = refused("evaluate", still, data, "--split", "test", *out)
    assert "stores no division of data (split.json); use split 'all'" in line
    folder = tmp_path / "with_split"
    shutil.copytree(still, folder)
    keys = [f"{number}.png" for number in range(7)]
    division = {"train": keys[:4], "validation": keys[4:5], "test": keys[5:]}
    parts = {part: {key: [0] for key in each} for part, each in division.items()}
    (folder / "split.json").write_text(json.dumps(parts))
    assert answer("evaluate", folder, data, "--split", "test", *out)["figures"]["frames"] == 2


def test_info(still, answer, capsys):
    about = answer("info", still)
    assert about["classes"] == list(CLASSES)
    assert about["parity"] == {"scores": 0.0}


def broken(still, folder, change):
    shutil.copytree(still, folder)
    change(folder)
    return folder


def edited(name):
    def edit(folder):
        (file,) = folder.glob(name)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    return edit


def fields(**changes):
    def change(folder):
        values = json.loads((folder / CONTRACT).read_text()) | changes
        (folder / CONTRACT).write_text(json.dumps(values))

    return change


def of_another_model(folder):
    write_contract(folder, replace(read_contract(folder), image_size=(64, 64)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / CONTRACT).unlink(), "and no contract.json"),
        (fields(format=1), "contract.json: is of format 1"),
        (fields(runtime="tensorrt"), "runtime is 'tensorrt'; allowed: onnx, openvino"),
        (fields(threshold=0.9), "contract.json: was changed since it was written"),
        (of_another_model, "contract.json: is of another model"),
        (edited("detect.[ox]*"), "is not the file that contract.json was written for"),
        (lambda folder: next(folder.glob("detect*")).unlink(), "no such file"),
    ],
)
def test_folders_that_cannot_be_used(still, change, line, refused, tiny_video, data, tmp_path):
    folder = broken(still, tmp_path / "broken", change)
    for words in (("predict", folder, tiny_video), ("evaluate", folder, data)):
        assert line in refused(*words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_contract_of_another_model(still, refused, tiny_video, tmp_path):
    """Same sizes, same names, other weights."""
    runtime = json.loads((still / CONTRACT).read_text())["runtime"]
    other = write_exported(tmp_path / "other", runtime, points=False)
    shutil.copy(other / CONTRACT, broken(still, tmp_path / "mixed", lambda folder: None))
    line = refused("predict", tmp_path / "mixed", tiny_video, "--out", tmp_path / "out")
    assert "is not the file that contract.json was written for" in line


@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "pkl"])
def test_pickled_models(ending, refused, tiny_video, tmp_path):
    file = tmp_path / f"model.{ending}"
    torch.save({"a": torch.zeros(3)}, file)
    for model in (file, tmp_path):
        line = refused("predict", model, tiny_video, "--out", tmp_path / "out")
        assert "sonodetr export" in line


def test_a_runtime_that_is_not_installed(still, refused, tiny_video, tmp_path, monkeypatch):
    package = {"onnx": "onnxruntime", "openvino": "openvino"}[still.name]
    monkeypatch.delitem(sys.modules, f"sonodetr.engines.{still.name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    line = refused("predict", still, tiny_video, "--out", tmp_path / "out")
    assert f'needs {package}, which is not installed; install it: pip install "sonodetr' in line
    assert f"sonodetr[{still.name}]" in line


def test_other_devices(still):
    with pytest.raises(InputError, match="runs on the CPU, not on 'cuda'; use 'cpu'"):
        load(still, device="cuda")
