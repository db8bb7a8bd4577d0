import json
import shutil

import numpy as np
import pytest
import torch

import sonodetr
from sonodetr.files import InputError
from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.predictor import Predictor, load
from sonodetr.types import Frame, Region, Spacing, Video


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return load(tiny_run)


class Pictures(list):
    """Frames that are in memory already."""

    @property
    def size(self):
        return self[0].shape[:2]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8)


def test_public_names(predictor):
    assert sonodetr.load is load
    assert sonodetr.Predictor is Predictor
    assert predictor.class_names == ("nerve", "vessel")
    assert predictor.threshold == 0.01
    assert predictor.image_size == (64, 96)
    assert predictor.interface.channels == 1


def test_equals_the_model_by_hand(predictor):
    """An input of exactly the model's size: no scaling, no bars."""
    pixels = noise(64, 96)
    (found,) = predictor.predict([pixels], threshold=0.0)
    with torch.no_grad():
        outputs = predictor.engine.model(torch.from_numpy(pixels)[None, None, None] / 255)
    scores = outputs.logits[-1, 0].sigmoid()
    best, place = scores.flatten().sort(descending=True)
    np.testing.assert_allclose(found.scores, best, rtol=1e-5)
    np.testing.assert_array_equal(found.classes, place % 2)
    boxes = xyxy_from_cxcywh(outputs.boxes_cxcywh[-1, 0])[place // 2].clip(0, 1)
    np.testing.assert_allclose(found.boxes_xyxy_px, boxes * torch.tensor([96, 64] * 2), atol=1e-3)


def test_region_is_all_that_is_seen(predictor):
    """A picture inside a screen gives the same boxes, moved; the screen's pixels do not matter."""
    inner = noise(64, 96)
    screen = np.full((131, 211), 255, np.uint8)
    screen[17:81, 101:197] = inner
    region = Region(101, 17, 197, 81)
    (alone,) = predictor.predict([inner], threshold=0.0)
    (inside,) = predictor.predict([Frame(screen, region_px=region)], threshold=0.0)
    np.testing.assert_allclose(inside.scores, alone.scores, rtol=1e-5)
    moved = alone.boxes_xyxy_px + np.float32([101, 17, 101, 17])
    np.testing.assert_allclose(inside.boxes_xyxy_px, moved, atol=1e-3)


def test_boxes_stay_inside_the_region(predictor):
    region = Region(60, 11, 80, 111)  # tall: wide black bars on both sides of the input
    (found,) = predictor.predict([Frame(noise(131, 211), region_px=region)], threshold=0.0)
    x0, y0, x1, y1 = found.boxes_xyxy_px.T
    assert x0.min() >= 60
    assert x1.max() <= 80
    assert y0.min() >= 11
    assert y1.max() <= 111


def test_threshold(predictor):
    (everything,) = predictor.predict([noise(64, 96)], threshold=0.0)
    assert len(everything) == 14  # 7 queries x 2 classes
    least = float(everything.scores[4])
    (some,) = predictor.predict([noise(64, 96)], threshold=least)
    assert (some.scores >= least).all()
    assert len(some) == (everything.scores >= least).sum()
    (own,) = predictor.predict([noise(64, 96)])
    assert len(own) == (everything.scores >= 0.01).sum()


def test_video_gives_every_frame_its_time(predictor):
    video = Video(
        "a",
        Pictures(noise(64, 96, seed) for seed in range(3)),
        np.array([0, 0.5, 0.75]),
        spacing_mm=Spacing(0.1, 0.2),
    )
    found = list(predictor.predict(video, threshold=0.0))
    assert [one.frame_index for one in found] == [0, 1, 2]
    assert [one.time_s for one in found] == [0, 0.5, 0.75]
    assert found[0].spacing_mm == (0.1, 0.2)
    (alone,) = predictor.predict([video.frames[1]], threshold=0.0)
    np.testing.assert_allclose(found[1].boxes_xyxy_px, alone.boxes_xyxy_px, atol=1e-3)


def test_address(predictor, tiny_video):
    found = list(predictor.predict(str(tiny_video)))
    assert len(found) == 13
    assert found[12].time_s == pytest.approx(12 / 17, abs=1e-3)


def test_no_frame_is_read_ahead(predictor):
    read = []

    def camera():
        for index in range(5):
            read.append(index)
            yield Frame(noise(64, 96), index)

    detections = predictor.predict(camera())
    next(detections)
    assert read == [0]


def test_region_choices(predictor):
    screen = np.zeros((200, 300), np.uint8)
    screen[40:160, 100:250] = 50
    video = Video("a", Pictures([screen]), np.zeros(1))
    assert predictor.with_region(video, "full").region_px == (0, 0, 300, 200)
    assert predictor.with_region(video, Region(1, 2, 3, 5)).region_px == (1, 2, 3, 5)
    found = predictor.with_region(video).region_px
    assert 90 <= found.x0 <= 100
    assert 250 <= found.x1 <= 260
    with pytest.raises(
        InputError, match=r"a: region 0,0,301,200 does not lie inside the 300 x 200"
    ):
        predictor.with_region(video, Region(0, 0, 301, 200))


def test_caller_may_still_train(predictor):
    """The generator must not leave torch in inference mode between two frames."""
    detections = predictor.predict([noise(64, 96)] * 2)
    next(detections)
    weight = torch.ones(1, requires_grad=True)
    (weight * 2).backward()
    assert weight.grad == 2


@pytest.mark.parametrize(
    ("pixels", "given"),
    [
        (np.zeros((5, 7), np.float32), r"float32 \[5, 7\]"),
        (np.zeros((5, 7, 4), np.uint8), r"uint8 \[5, 7, 4\]"),
        (np.zeros(5, np.uint8), r"uint8 \[5\]"),
    ],
)
def test_frames_that_are_no_pictures(predictor, pixels, given):
    frame = Frame(np.zeros((5, 7), np.uint8), 3)
    object.__setattr__(frame, "pixels", pixels)  # past the test run's own shape check
    with pytest.raises(InputError, match=f"frame 3: is {given}, but must be uint8"):
        next(predictor.predict_frames([frame]))


def test_models_that_cannot_be_opened(tiny_run, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny_run, folder)
        change(folder)
        return folder

    def without_threshold(folder):
        info = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(info | {"threshold": float("nan")}))

    def cut(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])

    def pickled(folder):
        torch.save({}, folder / "model.pt")
        (folder / "model.safetensors").unlink()

    cases = [
        (tmp_path / "nothing", "no such run folder"),
        (tiny_run / "model.safetensors", "is a file, not a run folder"),
        (tmp_path, r"has no config\.yaml"),
        (broken("cut", cut), "not a whole safetensors file"),
        (broken("pickled", pickled), r"has no model\.safetensors"),
        (broken("empty", lambda f: (f / "model.safetensors").write_bytes(b"")), "is empty"),
        (broken("info", lambda f: (f / "run.json").unlink()), r"run\.json: no such file"),
        (broken("facts", lambda f: (f / "run.json").write_text("{}")), r"run\.json: classes"),
        (broken("nan", without_threshold), r"run\.json: threshold"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta:x"])
def test_devices_that_are_not_there(tiny_run, device):
    with pytest.raises(InputError, match="use 'cpu'"):
        load(tiny_run, device=device)
