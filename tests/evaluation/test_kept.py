from dataclasses import fields

import numpy as np
import pytest
from made_up import make_up

from sonodetr.evaluation.instruments import Arrivals, Comparison, Sightings, Steps
from sonodetr.evaluation.kept import Kept, read_kept, write_kept
from sonodetr.evaluation.matches import match
from sonodetr.files import InputError


def instruments(frames):
    found = Sightings(
        np.array([0, 2]),
        np.array([0, 0]),
        np.array([True, False]),
        np.array([True, True]),
        np.array([1.5, np.nan]),
        np.array([3.0, np.nan]),
    )
    arrivals = Arrivals(np.array([0]), np.array([0]), np.array([np.inf]))
    steps = Steps(np.array([0]), np.array([0]), np.array([0.1]), np.array([True]))
    empty, shown = np.zeros((frames, 1), bool), np.full((frames, 1), 3)
    return Comparison(("needle",), "mm", 2, found, arrivals, steps, empty, shown)


def kept(with_instruments):
    videos, detections = make_up(3, 5)
    matches = match(videos, detections)
    recording = np.array([videos[index].key for index in matches.video])
    frames = len(matches.video)
    comparison = instruments(frames) if with_instruments else None
    index = np.arange(frames) % 5 * 2
    return Kept(recording, index, recording, "recording", 0.31, matches, comparison)


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    elif hasattr(first, "_fields"):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif hasattr(first, "__dataclass_fields__"):
        for field in fields(first):
            if field.name != "coco":  # the figures of sizes are in evaluation.json
                assert_same(getattr(first, field.name), getattr(second, field.name))
    else:
        assert first == second


@pytest.mark.parametrize("with_instruments", [True, False])
def test_everything_comes_back_and_nothing_is_pickled(tmp_path, with_instruments):
    path, before = tmp_path / "matches.npz", kept(with_instruments)
    write_kept(path, before)
    assert_same(read_kept(path), before)
    with np.load(path, allow_pickle=False) as file:
        assert all(array.dtype != object for array in dict(file).values())


def test_same_content_same_bytes(tmp_path):
    for name in "ab":
        write_kept(tmp_path / name, kept(True))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_files_are_refused_in_a_line(tmp_path):
    path = tmp_path / "matches.npz"
    write_kept(path, kept(True))
    whole = path.read_bytes()
    for wrong in (whole[:700], b"PK", b"no archive at all", whole[:-40] + b"\0" * 40):
        path.write_bytes(wrong)
        with pytest.raises(
            InputError, match=r"matches\.npz: not an evaluation's matches .* delete"
        ):
            read_kept(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(InputError, match="not an evaluation's matches"):
        read_kept(path)
