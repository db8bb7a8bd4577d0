import hashlib
from pathlib import Path

import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.simulator.datasets import (
    DATA_SETS,
    NEEDLE,
    NEEDLE_SMALL,
    configure,
    data_set,
    label_hash,
    pixel_hash,
)
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

SMALL = SimulatorConfig(clips=2, frames=2, image_size=(64, 64), empty=0.0)


def test_named_data_sets_are_what_they_were():
    parts = ("train", "validation", "test", "shifted")
    assert tuple(NEEDLE_SMALL) == tuple(NEEDLE) == parts
    assert [config.clips for config in NEEDLE_SMALL.values()] == [300, 60, 120, 120]
    assert [config.clips for config in NEEDLE.values()] == [600, 100, 200, 200]
    for config in NEEDLE_SMALL.values():
        assert (config.frames, config.image_size, config.frame_rate_hz) == (8, (160, 160), 10.0)
    for config in NEEDLE.values():
        assert (config.frames, config.image_size, config.frame_rate_hz) == (16, (256, 256), 10.0)
    every = [config for part in (NEEDLE_SMALL, NEEDLE) for config in part.values()]
    assert {config.instruments for config in every} == {("needle",)}
    assert [config.domain for config in every] == 2 * (3 * ["standard"] + ["shifted"])


@pytest.mark.parametrize("named", ["needle-small", "needle"])
def test_frozen_labels_are_those_of_the_docs(named):
    """Figures refer to these data sets: a change that alters one needs a new name."""
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `validation` | `"))
    column = list(DATA_SETS).index(named)
    documented = row.split("|")[2 + column].strip(" `")
    assert label_hash(data_set(named)["validation"]) == documented


def test_no_two_parts_have_the_same_seed():
    seeds = [config.seed for parts in DATA_SETS.values() for config in parts.values()]
    assert len(set(seeds)) == len(seeds)


def test_unknown_data_set():
    with pytest.raises(InputError, match="'nedle' is no simulated data set; did you mean 'needle'"):
        data_set("nedle")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clips": 0}, "clips: 0 is not allowed"),
        ({"empty": 1.5}, "empty: 1.5 is not allowed"),
        ({"frame_rate_hz": float("nan")}, "frame_rate_hz: nan is not allowed"),
        ({"colour": True}, "colour: True is not allowed"),
    ],
)
def test_settings_that_are_not_allowed(values, message):
    with pytest.raises(InputError, match=message):
        configure(**values)


def test_hashes_are_stable_and_differ_by_seed():
    other = SMALL.model_copy(update={"seed": 1})
    assert label_hash(SMALL) == label_hash(SMALL)
    assert pixel_hash(SMALL, 1) == pixel_hash(SMALL, 1)
    assert label_hash(SMALL) != label_hash(other)
    assert pixel_hash(SMALL, 1) != pixel_hash(other, 1)


def test_label_hash_counts_what_is_rounded(monkeypatch):
    """A shift by less than the rounding is none; a larger one, or another kind, is."""
    move, kind = np.zeros(4), "needle"

    class Label:
        @property
        def box_xyxy_px(self):
            return np.array([1.0, 2.0, 3.0, 5.0]) + move

        tip_px, entry_px = np.array([np.nan, np.nan]), np.array([7.0, 11.0])

    class Recording:
        spacing_mm = (0.5, 0.5)
        labels = (None, Label())

        @property
        def instrument(self):
            return self

        @property
        def kind(self):
            return kind

    monkeypatch.setattr("sonodetr.simulator.datasets.draw_recording", lambda *_: Recording())
    one = configure(clips=1)
    before = label_hash(one)
    numbers = np.array([1000, 2000, 3000, 5000, -(2**63), -(2**63), 7000, 11000], "<i8")
    spacing = np.array([500_000, 500_000], "<i8")
    by_hand = spacing.tobytes() + b"\0" + b"\1needle" + numbers.tobytes()
    assert before == hashlib.sha256(by_hand).hexdigest()
    move = np.array([0.0004, 0.0, 0.0, 0.0])
    assert label_hash(one) == before
    move = np.array([0.0006, 0.0, 0.0, 0.0])
    assert label_hash(one) != before
    move, kind = np.zeros(4), "catheter"
    assert label_hash(one) != before


def test_pixel_hash_is_of_the_pixels():
    pixels = draw_recording(SMALL, 0).pictures()
    assert pixel_hash(SMALL, 1) == hashlib.sha256(pixels.tobytes()).hexdigest()
    more = SMALL.model_copy(update={"clips": 1})
    assert pixel_hash(more, 7) == pixel_hash(SMALL, 1)
