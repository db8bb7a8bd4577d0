import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import video
from test_similarity import tissue

from sonodetr.config import SplitConfig
from sonodetr.data.splits import (
    PARTS,
    Split,
    near_identical_across,
    select,
    split,
    to_json,
)
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.types import Labels, Video

BOX = [1, 1, 9, 9]


def still(
    seed: int, key: str, classes: tuple[int, ...] = (0,), patient: str | None = None
) -> Video:
    labels = Labels.of([BOX] * len(classes), classes)
    return video(tissue(seed)[None], {0: labels}, key, patient)


def clip(frames: int, key: str, patient: str | None = None) -> Video:
    pixels = np.random.default_rng(frames).integers(0, 99, (frames, 13, 17), dtype=np.uint8)
    return video(pixels, {i: Labels.of([BOX], [0]) for i in range(frames)}, key, patient)


def part_of(videos: list[Video], division: Split) -> dict[str, str]:
    """Part of each recording; fails if a recording is in two."""
    parts: dict[str, str] = {}
    for name in PARTS:
        for index, _ in getattr(division, name):
            assert parts.setdefault(videos[index].key, name) == name
    return parts


def test_every_labelled_frame_is_in_exactly_one_part() -> None:
    videos = [clip(n, f"clip{n}") for n in (2, 3, 5, 7, 11, 13, 17, 19)]
    del videos[2].labels[3]  # type: ignore[attr-defined]
    division = split(videos, SplitConfig(), 0)
    everything = division.train + division.validation + division.test
    assert len(everything) == len(set(everything)) == 76
    assert (2, 3) not in everything
    assert len(part_of(videos, division)) == 8
    assert split(videos, SplitConfig(), 0) == division
    assert all(getattr(division, name) == sorted(getattr(division, name)) for name in PARTS)


def test_a_seed_of_the_division_stands_for_that_of_the_run() -> None:
    videos = [clip(2, f"clip{n}") for n in range(7)]
    divisions = [split(videos, SplitConfig(), seed) for seed in range(5)]
    assert any(division != divisions[0] for division in divisions)
    for seed, division in enumerate(divisions):
        assert split(videos, SplitConfig(seed=seed), 23) == division


def test_folds_hold_every_frame_out_once() -> None:
    videos = [clip(n, f"clip{n}") for n in (2, 3, 5, 7, 11, 13)]
    tests = [split(videos, SplitConfig(test_fold=fold), 1).test for fold in range(3)]
    everything = [sample for test in tests for sample in test]
    assert sorted(everything) == [(v, f) for v in range(6) for f in range(len(videos[v]))]


def test_patients_stay_whole() -> None:
    videos = [clip(3 + n, f"clip{n}", f"patient{n % 5}") for n in range(15)]
    for seed in range(10):
        parts = part_of(videos, split(videos, SplitConfig(), seed))
        for patient in range(5):
            assert len({parts[f"clip{n}"] for n in range(patient, 15, 5)}) == 1


def test_near_identical_stills_and_their_patients_stay_together() -> None:
    videos = [still(seed, f"s{seed}") for seed in range(9)]
    videos += [
        still(0, "s0 again"),
        still(1, "s1 again", patient="p"),
        still(50, "s50", patient="p"),
    ]
    for seed in range(10):
        division = split(videos, SplitConfig(), seed)
        parts = part_of(videos, division)
        assert parts["s0"] == parts["s0 again"]
        assert parts["s1"] == parts["s1 again"] == parts["s50"]
        assert near_identical_across(videos, division, 0.6) == []


def test_frames_and_classes_are_balanced() -> None:
    videos = [still(s, f"s{s}", (0,) * (1 + s % 3) + (1,) * (s % 4 == 0)) for s in range(60)]
    division = split(videos, SplitConfig(validation_fraction=0.2), 0)
    assert abs(len(division.test) - 20) <= 1
    assert abs(len(division.validation) - 8) <= 1
    boxes = {
        name: np.bincount(
            [c for v, _ in getattr(division, name) for c in videos[v].labels[0].classes]
        )
        for name in PARTS
    }
    assert abs(boxes["test"][0] - 40) <= 2  # of 120
    assert boxes["test"][1] == 5  # of 15
    assert boxes["validation"][1] == 2


def test_three_groups_suffice_for_three_parts() -> None:
    videos = [clip(5, "a"), clip(7, "b"), clip(3, "c")]
    assert sorted(part_of(videos, split(videos, SplitConfig(), 0)).values()) == sorted(PARTS)


@pytest.mark.parametrize(("count", "folds"), [(0, 3), (2, 3), (2, 2), (4, 5)])
def test_too_few_groups(count: int, folds: int) -> None:
    videos = [clip(3 + n, f"clip{n}") for n in range(count)]
    with pytest.raises(InputError, match=rf"has {count} groups .*folds={folds} "):
        split(videos, SplitConfig(folds=folds), 0)


def test_stretches_of_one_recording() -> None:
    videos = [video(np.zeros((3, 5, 7), np.uint8), key="unlabelled"), clip(40, "long")]
    config = SplitConfig(
        test_frames=((0, 4), (30, 39)), validation_frames=((8, 12),), border_frames=5
    )
    division = split(videos, config, 0)
    assert [frame for _, frame in division.test] == [*range(5), *range(30, 40)]
    assert [frame for _, frame in division.validation] == [
        10,
        11,
        12,
    ]  # 8 and 9 lie beside the test
    assert [frame for _, frame in division.train] == list(range(18, 25))
    assert {index for index, _ in division.train + division.test} == {1}


def test_stretches_need_one_recording_and_fill_every_part() -> None:
    config = SplitConfig(test_frames=((0, 4),), validation_frames=((8, 99),), border_frames=0)
    with pytest.raises(InputError, match="divides one recording, but 2 have labels"):
        split([clip(20, "a"), clip(20, "b")], config, 0)
    assert len(split([clip(20, "a")], config, 0).train) == 3
    config = config.model_copy(update={"border_frames": 3})
    with pytest.raises(InputError, match="no labelled frame for train; a has 20 between 0 and 19"):
        split([clip(20, "a")], config, 0)


def test_the_same_recording_under_two_names_is_reported() -> None:
    frames = np.stack([tissue(seed) for seed in range(3)])
    labels = {i: Labels.of([BOX], [0]) for i in range(3)}
    videos = [video(frames, labels, key) for key in ("a", "b")]
    division = Split([(0, 0), (0, 1)], [], [(1, 0), (1, 1), (1, 2)])
    assert near_identical_across(videos, division, 0.6) == [
        "train a frame 0 and test b frame 0 are near-identical (similarity 1.00)"
    ]


def test_a_stored_division_is_found_again() -> None:
    videos = [clip(n, f"clip{n}") for n in (2, 3, 5, 7)]
    division = split(videos, SplitConfig(), 0)
    document = json.loads(json.dumps(to_json(videos, division)))
    for name in PARTS:
        assert select(videos, document, name) == getattr(division, name)
    backwards = videos[::-1]
    assert {
        (backwards[index].key, frame) for index, frame in select(backwards, document, "test")
    } == {(videos[index].key, frame) for index, frame in division.test}


def test_folders_name_the_parts() -> None:
    keys = ("test/a", "train/b", "shifted/c", "train/d", "validation/e", "train", "training/f")
    division = split([clip(2, key) for key in keys], SplitConfig(by_folder=True), 0)
    assert division.train == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert division.validation == [(4, 0), (4, 1)]
    assert division.test == [(0, 0), (0, 1)]
    without = split([clip(2, "train/a"), clip(2, "validation/b")], SplitConfig(by_folder=True), 0)
    assert without.test == []


def test_folders_that_name_no_parts() -> None:
    videos = [clip(2, "clip-00000"), clip(2, "train/b")]
    with pytest.raises(InputError, match=r"lies in validation/ \(the first one is clip-00000\)"):
        split(videos, SplitConfig(by_folder=True), 0)


def test_a_stored_division_that_does_not_fit() -> None:
    videos = [clip(2, "a"), clip(3, "b")]
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        select(videos, {"train": {}, "test": {}}, "tset")
    with pytest.raises(InputError, match="names the recording 'c'"):
        select(videos, {"test": {"c": [0]}}, "test")
    with pytest.raises(InputError, match="names frame 2 of 'a', which has no labels"):
        select(videos, {"test": {"a": [2]}}, "test")
    with pytest.raises(InputError, match="not a stored division"):
        select(videos, {"test": [1, 2]}, "test")


def test_real_stills(data_folder: Callable[[str], Path]) -> None:
    folder = data_folder("usgra-seg") / "dataset"
    videos = read(folder / "coco.json", images=str(folder / "images"))
    division = split(videos, SplitConfig(), 0)
    assert len(division.test) == pytest.approx(68, abs=2)
    assert len(division.train) == pytest.approx(116, abs=3)
    parts = part_of(videos, division)
    # Found by eye among all pairs: the same scene saved twice.
    keys = [item.key for item in videos]
    for first, second in [(36, 65), (46, 48), (13, 73), (19, 88), (96, 113), (67, 69)]:
        assert parts[keys[first]] == parts[keys[second]]
