import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up import CLASSES, detected, video
from rich.console import Console

from sonodetr.contract import Interface
from sonodetr.evaluation import evaluate as module
from sonodetr.evaluation.evaluate import evaluate
from sonodetr.evaluation.tables import print_evaluation
from sonodetr.files import InputError
from sonodetr.predictor import Predictor
from sonodetr.types import Labels

BOXES = {name: [10 * k, 20, 10 * k + 13, 37] for k, name in enumerate(CLASSES)}


@pytest.fixture
def stills(tmp_path):
    """Seven stills as COCO: a nerve in each, a vessel in all but the last."""
    images, labels = [], []
    for number in range(7):
        name = f"still{number}.png"
        cv2.imwrite(str(tmp_path / name), np.full((53, 71), number, np.uint8))
        images.append({"id": number, "file_name": name, "height": 53, "width": 71})
        for row, label in enumerate(CLASSES[: 1 if number == 6 else 2]):
            x0, y0, x1, y1 = BOXES[label]
            labels.append(
                {
                    "id": len(labels) + 1,
                    "image_id": number,
                    "category_id": row + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(CLASSES)]
    path = tmp_path / "coco.json"
    document = {"images": images, "annotations": labels, "categories": categories}
    path.write_text(json.dumps(document))
    return path


class Oracle(Predictor):
    """Knows every nerve, and the vessels of even stills, which it tells by the brightness."""

    class_names = ("vessel", "nerve")  # not in the data's order
    threshold = 0.6
    interface = Interface((256, 256), 1, 1, 1, "auto", class_names, threshold, points=False)

    def __init__(self):
        """There is no network behind it."""

    def with_region(self, video):
        return video

    def see(self, frame):
        return int(frame.pixels.flat[0])

    def detect(self, clip):
        if clip[-1] % 2 == 0:
            boxes, scores, classes = [BOXES["nerve"], BOXES["vessel"]], [0.9, 0.5], [1, 0]
        else:
            boxes, scores, classes = [BOXES["nerve"]], [0.9], [1]
        return detected(boxes, scores, classes, self.class_names)


@pytest.fixture
def oracle(monkeypatch):
    known = Oracle()
    monkeypatch.setattr(module, "load", lambda model: known)
    monkeypatch.setattr(module, "model_folder", Path)
    return known


def test_result(stills, oracle, tmp_path):
    result = evaluate("oracle", stills, out=tmp_path / "out", seed=3)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    picture = cv2.imread(str(tmp_path / "out" / "precision_recall.png"))
    assert picture.shape == (750, 900, 3)
    assert picture.std() > 10
    figures = result["figures"]
    assert (figures["frames"], figures["objects"]) == (7, 13)
    assert figures["classes"]["nerve"]["ap"] == 1
    # Vessels of stills 0, 2 and 4 of six are found; a wrong one in still 6 has the same score.
    assert figures["classes"]["vessel"]["ap50"] == pytest.approx(51 / 101)
    assert figures["classes"]["needle"]["ap"] is None
    assert figures["ap50"] == pytest.approx((1 + 51 / 101) / 2)
    intervals = result["intervals"]
    assert (intervals["unit"], intervals["units"]) == ("image", 7)
    assert intervals["figures"]["ap50"]["value"] == figures["ap50"]
    assert intervals["figures"]["ap50/nerve"] == {"value": 1, "low": 1, "high": 1, "defined": 1}
    assert (
        intervals["figures"]["ap50"]["low"] < figures["ap50"] < intervals["figures"]["ap50"]["high"]
    )
    assert intervals["figures"]["ap/needle"] == {
        "value": None,
        "low": None,
        "high": None,
        "defined": 0,
    }
    # Above the threshold of 0.6 are the seven nerves alone.
    assert intervals["figures"]["recall"]["value"] == pytest.approx(7 / 13)
    assert intervals["figures"]["precision"]["value"] == 1
    assert [row["ap50"] for row in result["recordings"]] == [1, 0.5, 1, 0.5, 1, 0.5, 1]
    assert result["recordings"][6]["objects"] == 1
    assert len(result["curves"]["all"]) == len(result["curves"]["recall"]) == 101
    assert result["curves"]["classes"]["needle"] == [None] * 101
    assert result["provenance"]["seed"] == 3
    assert "numpy" in result["provenance"]["versions"]
    assert result["notes"] == []
    assert evaluate("oracle", stills, out=tmp_path / "again", seed=3) == result


def test_table(stills, oracle, tmp_path):
    result = evaluate("oracle", stills, out=tmp_path / "out")
    console = Console(file=io.StringIO(), width=100)
    print_evaluation(result, console)
    text = console.file.getvalue()
    for words in ("AP50", "nerve", "1.000 (1.000 to 1.000)", "undefined", "over 7 images"):
        assert words in text


class NeedleOracle(Oracle):
    """Knows the needle of every picture but the darkest, its tip 3 px across and 4 px down off."""

    class_names = ("needle",)

    def detect(self, clip):
        known = clip[-1] > 0
        one = detected([[10, 10, 50, 40]] * known, [0.9] * known, [0] * known, ("needle",))
        points = np.float32([[[53, 44], [10, 10]]] * known)
        return replace(one, points_px=points.reshape(-1, 2, 2))


@pytest.fixture
def needles(tmp_path):
    """Two recordings of three pictures at 10 Hz with a needle each; the last picture is empty."""
    document = {"images": [], "annotations": [], "videos": [], "categories": []}
    document["categories"].append({"id": 1, "name": "needle"})
    for number in range(6):
        name, video_id, frame = f"{number}.png", number // 3, number % 3
        cv2.imwrite(str(tmp_path / name), np.full((53, 71), frame, np.uint8))
        document["images"].append(
            {"id": number, "file_name": name, "video_id": video_id, "frame_id": frame}
        )
        label = {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 10, 40, 30]}
        if number < 5:
            label |= {"keypoints": [50, 40, 2, 10, 10, 2], "tip_contrast_db": 3.5, "visible": True}
            document["annotations"].append(label)
    for key in range(2):
        spacing = {"spacing_mm": [1.0, 1.0]} if key == 0 else {}
        document["videos"].append({"id": key, "name": f"clip{key}", "fps": 10, **spacing})
    path = tmp_path / "needles.json"
    path.write_text(json.dumps(document))
    return path


def test_instruments(needles, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "load", lambda model: NeedleOracle())
    monkeypatch.setattr(module, "model_folder", Path)
    result = evaluate("oracle", needles, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    assert result["instruments"]["all"] == {
        "objects": 5, "tips": 3, "instruments": 2, "never_detected": 0, "pairs": 3,
        "empty_frames": 1,
    }  # fmt: skip
    figures = result["intervals"]["figures"]
    assert figures["tip_error_median_mm"]["value"] == pytest.approx(5)
    assert figures["tip_error_median_mm/needle"] == figures["tip_error_median_mm"]
    assert figures["detected"]["value"] == pytest.approx(3 / 5)
    assert figures["first_detection_median_s"]["value"] == pytest.approx(0.1)
    assert figures["false_detections_per_empty_frame"]["value"] == 1
    first, second = result["recordings"]
    assert (first["detected"], second["detected"]) == pytest.approx((2 / 3, 1 / 2))
    assert (first["flicker_per_s"], second["flicker_per_s"]) == pytest.approx((5, 10))
    assert second["tip_error_median_mm"] is None

    console = Console(file=io.StringIO(), width=100)
    print_evaluation(result, console)
    text = console.file.getvalue()
    assert "tip error, median (mm)" in text
    assert "5.000 (5.000 to 5.000)" in text
    assert "tip errors leave out recordings without a pixel spacing (1)" in text


def test_a_model_without_points_has_no_instruments(stills, oracle, tmp_path):
    assert evaluate("oracle", stills, out=tmp_path / "out")["instruments"] is None


def test_stored_split(stills, oracle, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    keys = [row["key"] for row in evaluate(run, stills, out=tmp_path / "out")["recordings"]]
    division = {
        "train": {key: [0] for key in keys[:4]},
        "validation": {keys[4]: [0]},
        "test": {keys[5]: [0], keys[6]: [0]},
    }
    (run / "split.json").write_text(json.dumps(division))
    test = evaluate(run, stills, out=tmp_path / "out", split="test")
    assert [row["key"] for row in test["recordings"]] == keys[5:]
    assert test["notes"] == []
    whole = evaluate(run, stills, out=tmp_path / "out")
    assert "4 of the 7 frames" in whole["notes"][0]
    alone = evaluate(run, stills, out=tmp_path / "out", split="validation")
    assert alone["intervals"]["units"] == 1
    assert alone["intervals"]["figures"]["ap50"]["low"] is None
    for damaged in ([], {}, {"train": 3}, dict.fromkeys(division, 7)):
        (run / "split.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match=r"split\.json: does not hold train, validation, test"):
            evaluate(run, stills, out=tmp_path / "out")


def test_errors_are_one_line_and_leave_nothing(stills, oracle, tmp_path):
    with pytest.raises(InputError, match=r"stores no division of data \(split.json\)"):
        evaluate(tmp_path, stills, out=tmp_path / "out", split="test")
    oracle.class_names = ("nerve", "bone")
    with pytest.raises(InputError, match=r"class vessel, which .* not know .*nerve, bone") as error:
        evaluate("oracle", stills, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unit_of_the_interval():
    nothing = Labels.of([], [])
    clips = [video(key, {0: nothing, 1: nothing}) for key in "abc"]
    unit, number = module.units_of(clips, np.array([0, 0, 2, 2, 1]))
    assert (unit, number.tolist()) == ("recording", [0, 0, 2, 2, 1])
    clips = [
        replace(clip, patient=name) for clip, name in zip(clips, ("x", None, "x"), strict=True)
    ]
    unit, number = module.units_of(clips, np.array([0, 1, 2]))
    assert unit == "patient"
    assert number[0] == number[2] != number[1]
    assert module.units_of([video("a", {0: nothing})], np.array([0]))[0] == "image"


def test_frames_beside_the_training_frames_are_pointed_out():
    nothing = Labels.of([], [])
    clips = [video(key, {0: nothing, 1: nothing}) for key in "ab"]
    division = {"train": {"a": [0]}, "validation": {}, "test": {"a": [1], "b": [0]}}
    (note,) = module._notes(clips, [(0, 1), (1, 0)], division)
    assert "within-video" in note
    assert module._notes(clips, [(1, 0)], division) == []
    assert module._notes(clips, [(0, 1)], None) == []
