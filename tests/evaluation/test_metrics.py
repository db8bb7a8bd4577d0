import contextlib
import io
import json
import time

import numpy as np
import pytest
from made_up import CLASSES, detected, make_up, video
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sonodetr.evaluation.matches import match
from sonodetr.evaluation.metrics import (
    average_precision,
    best_threshold,
    curve,
    evaluate_detections,
    figures,
)
from sonodetr.files import InputError
from sonodetr.types import Labels

NOTHING = detected([], [], [])


def pycocotools(videos, detections):
    """The twelve COCO figures and the precisions `[10, 101, classes]` of the reference tool."""
    images, labels, found = [], [], []
    for recording in videos:
        for frame, truth in recording.labels.items():
            image = len(images) + 1
            images.append({"id": image})
            for box, label, crowd in zip(
                truth.boxes_xyxy_px.astype(float), truth.classes, truth.crowd, strict=True
            ):
                size = box[2:] - box[:2]
                labels.append(
                    {
                        "id": len(labels) + 1,
                        "image_id": image,
                        "category_id": int(label) + 1,
                        "bbox": [*box[:2], *size],
                        "area": size.prod(),
                        "iscrowd": int(crowd),
                    }
                )
            given = detections[recording.key, frame]
            for box, label, score in zip(
                given.boxes_xyxy_px.astype(float), given.classes, given.scores, strict=True
            ):
                found.append(
                    {
                        "image_id": image,
                        "category_id": int(label) + 1,
                        "bbox": [*box[:2], *(box[2:] - box[:2])],
                        "score": float(score),
                    }
                )
    reference = COCO()
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(CLASSES)]
    reference.dataset = {"images": images, "annotations": labels, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = np.where(evaluator.stats < 0, np.nan, evaluator.stats)
    return stats, evaluator.eval["precision"][:, :, :, 0, 2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("crowd", [0.0, 0.3])
def test_equals_pycocotools(seed, crowd):
    videos, detections = make_up(7, 5, seed, crowd=crowd)
    stats, precision = pycocotools(videos, detections)
    metrics = evaluate_detections(videos, detections)
    ours = [metrics.ap, metrics.ap50, metrics.ap75]
    ours += [metrics.ap_small, metrics.ap_medium, metrics.ap_large]
    ours += [metrics.ar1, metrics.ar10, metrics.ar100]
    ours = [np.nan if value is None else value for value in ours]
    np.testing.assert_allclose(ours, stats[:9], atol=1e-6)
    by_class = precision.mean(1).T  # [classes, 10]
    ap = average_precision(match(videos, detections))[0]
    np.testing.assert_allclose(ap[:2], by_class[:2], atol=1e-6)
    for label, name in enumerate(CLASSES[:2]):
        assert metrics.classes[name].ap == pytest.approx(by_class[label].mean(), abs=1e-6)
        assert metrics.classes[name].ap50 == pytest.approx(by_class[label, 0], abs=1e-6)


def test_class_without_objects_is_undefined_and_not_zero():
    videos, detections = make_up(3, 2)
    metrics = evaluate_detections(videos, detections)
    needle = metrics.classes["needle"]
    assert needle.objects == 0
    assert needle.ap is None
    assert needle.ap50 is None
    assert needle.at_recall == {0.8: None, 0.9: None}
    assert needle.best_f1 is None
    mean = np.mean([metrics.classes[name].ap for name in CLASSES[:2]])
    assert metrics.ap == pytest.approx(mean)
    values = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert values["classes"]["needle"]["ap"] is None
    assert values["ap"] == metrics.ap


def test_false_positive_in_an_empty_frame_lowers_ap():
    box = [10, 10, 50, 50]
    clip = video("a", {0: Labels.of([box], [0]), 1: Labels.of([], [])})
    found = detected([box], [0.5], [0])
    wrong = detected([[0, 0, 5, 5]], [0.9], [0])
    clean = evaluate_detections([clip], {("a", 0): found, ("a", 1): NOTHING})
    assert clean.ap == 1
    disturbed = evaluate_detections([clip], {("a", 0): found, ("a", 1): wrong})
    assert disturbed.ap == pytest.approx(0.5)  # the object is found second: precision 1/2
    assert disturbed.ap50 == pytest.approx(0.5)
    assert disturbed.at_recall[0.9].false_positives_per_frame == 0.5
    # The same detection in a frame without labels is not judged.
    unlabelled = video("a", {0: Labels.of([box], [0])})
    assert evaluate_detections([unlabelled], {("a", 0): found, ("a", 1): wrong}).ap == 1


def test_crowd_region_is_neither_object_nor_background():
    box, crowd = [10, 10, 50, 50], [100, 100, 300, 300]
    clip = video("a", {0: Labels.of([box, crowd], [0, 0], crowd=[False, True])})
    found = detected([[120, 120, 160, 160], box], [0.9, 0.5], [0, 0])
    metrics = evaluate_detections([clip], {("a", 0): found})
    assert metrics.objects == 1
    assert metrics.ap == 1
    assert metrics.best_f1.precision == 1
    assert metrics.best_f1.threshold == 0.5


def test_operating_points_by_hand():
    # Ten objects; in order of score: 7 right, 1 wrong, 1 right, 2 wrong of one score, 1 right.
    objects = [[20 * k, 0, 20 * k + 10, 10] for k in range(10)]
    clip = video("a", {0: Labels.of(objects, [0] * 10), 3: Labels.of([], [])})
    away = [[20 * k, 100, 20 * k + 10, 110] for k in range(3)]
    boxes = [*objects[:7], away[0], objects[7], away[1], away[2], objects[8]]
    scores = [0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.89, 0.8, 0.7, 0.5, 0.5, 0.4]
    found = {("a", 0): detected(boxes, scores, [0] * 12), ("a", 3): NOTHING}
    metrics = evaluate_detections([clip], found)
    point = metrics.at_recall[0.8]
    assert point.threshold == pytest.approx(0.7)
    assert (point.precision, point.recall) == (8 / 9, 0.8)
    assert point.false_positives_per_frame == 1 / 2
    point = metrics.at_recall[0.9]
    assert point.threshold == pytest.approx(0.4)
    assert (point.precision, point.recall) == (9 / 12, 0.9)
    assert point.false_positives_per_frame == 3 / 2
    # F1 = 2 TP / (detections + objects): 14/17, 16/19, 18/22.
    assert metrics.best_f1.f1 == pytest.approx(16 / 19)
    matches = match([clip], found)
    assert np.float32(best_threshold(matches)) == np.float32(0.7)
    assert len(found["a", 0].above(best_threshold(matches))) == 9
    whole = curve(matches)
    assert len(whole.thresholds) == 11  # the tie is one operating point
    assert whole.found[-2:].tolist() == [8, 9]
    assert whole.wrong[-2:].tolist() == [3, 3]
    assert whole.at_threshold(0.45).recall == 0.8
    assert whole.at_threshold(0.45).precision == 8 / 11
    nothing = whole.at_threshold(0.99)
    assert (nothing.recall, nothing.precision, nothing.false_positives_per_frame) == (0, 1, 0)


def test_recall_that_is_never_reached_is_none():
    box, other = [10, 10, 50, 50], [100, 100, 150, 150]
    clip = video("a", {0: Labels.of([box, other], [0, 1])})
    metrics = evaluate_detections([clip], {("a", 0): detected([box], [0.5], [0])})
    assert metrics.at_recall == {0.8: None, 0.9: None}
    assert metrics.classes["nerve"].at_recall[0.9].precision == 1
    assert metrics.best_f1.recall == 0.5


def test_no_detections():
    clip = video("a", {0: Labels.of([[1, 1, 9, 9]], [0])})
    metrics = evaluate_detections([clip], {("a", 0): NOTHING})
    assert (metrics.ap, metrics.ar100) == (0, 0)
    assert metrics.best_f1 is None
    assert best_threshold(match([clip], {("a", 0): NOTHING})) is None


def test_no_objects_at_all():
    clip = video("a", {0: Labels.of([], [])})
    found = {("a", 0): detected([[0, 0, 5, 5]], [0.9], [0])}
    metrics = evaluate_detections([clip], found)
    assert metrics.frames == 1
    assert (metrics.ap, metrics.ap50, metrics.ar100, metrics.ap_small) == (None,) * 4
    assert curve(match([clip], found)).at_threshold(0.5) is None


def test_classes_are_paired_by_name():
    box = [10, 10, 50, 50]
    clip = video("a", {0: Labels.of([box], [1])}, ("nerve", "vessel"))
    given = detected([box, box], [0.9, 0.8], [0, 2], ("bone", "nerve", "vessel"))
    metrics = evaluate_detections([clip], {("a", 0): given})
    assert metrics.ap == 1
    assert metrics.best_f1.precision == 1  # "bone" is not among the data's classes


def test_only_the_best_hundred_detections_of_a_frame_count():
    box = [10, 10, 50, 50]
    clip = video("a", {0: Labels.of([box], [0])})
    away = [[100, 100, 120, 120]] * 100
    last = detected([*away, box], [0.9] * 100 + [0.1], [1] * 100 + [0])
    assert evaluate_detections([clip], {("a", 0): last}).ap == 0
    within = detected([*away[:99], box], [0.9] * 99 + [0.1], [1] * 99 + [0])
    assert evaluate_detections([clip], {("a", 0): within}).ap == 1


def test_chosen_frames_only():
    videos, detections = make_up(5, 3)
    part = evaluate_detections(videos, detections, [(3, 0), (3, 2), (3, 4)])
    alone = evaluate_detections([videos[3]], detections)
    assert part == alone


def test_weights_equal_copies_of_the_frames():
    videos, detections = make_up(7, 1, 1, per_frame=31)
    # Without ties: the order of equal scores differs between a copy and a weight.
    random = np.random.default_rng(3)
    detections = {
        key: detected(
            d.boxes_xyxy_px, np.sort(random.random(len(d)))[::-1].tolist(), d.classes.tolist()
        )
        for key, d in detections.items()
    }
    weights = [2, 0, 1, 3, 0, 1, 5]
    copies, found = [], {}
    for recording, weight in zip(videos, weights, strict=True):
        for copy in range(weight):
            key = f"{recording.key}-{copy}"
            copies.append(video(key, dict(recording.labels)))
            found[key, 0] = detections[recording.key, 0]
    weighted = figures(match(videos, detections), np.array([weights, [1] * 7]), 0.4)
    expected = figures(match(copies, found), np.ones((1, sum(weights)), np.int64), 0.4)
    assert set(weighted) == set(expected)
    for name in expected:
        np.testing.assert_allclose(weighted[name][0], expected[name][0], atol=1e-12, err_msg=name)
    metrics = evaluate_detections(videos, detections)
    assert weighted["ap"][1] == metrics.ap
    assert weighted["ap50/vessel"][1] == metrics.classes["vessel"].ap50
    assert np.isnan(weighted["ap75/needle"]).all()
    assert weighted["precision@0.8"][1] == metrics.at_recall[0.8].precision


def test_some_frames_of_matches_equal_matches_of_some_frames():
    videos, detections = make_up(5, 3)
    matches = match(videos, detections)
    part = matches.only(np.isin(matches.video, [1, 4]))
    np.testing.assert_array_equal(
        average_precision(part), average_precision(match([videos[1], videos[4]], detections))
    )


def test_what_cannot_be_evaluated_is_refused():
    videos, detections = make_up(2, 1)
    with pytest.raises(InputError, match="no labelled frame"):
        evaluate_detections([video("a", {})], {})
    with pytest.raises(ValueError, match="v1, frame 0: no detections"):
        evaluate_detections(videos, {("v0", 0): detections["v0", 0]})
    with pytest.raises(ValueError, match="v0, frame 1: no labels"):
        evaluate_detections(videos, detections, [(0, 1)])
    detections["v0", 0] = detected([[0, 0, 1, 1]], [np.nan], [0])
    with pytest.raises(ValueError, match="not finite"):
        evaluate_detections(videos, detections)


def test_five_thousand_frames_take_seconds():
    videos, detections = make_up(50, 100, per_frame=32)
    start = time.perf_counter()
    assert evaluate_detections(videos, detections).frames == 5000
    assert time.perf_counter() - start < 20  # about 1 s; the margin is for a busy machine
