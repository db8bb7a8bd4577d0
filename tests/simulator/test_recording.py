"""Whole recordings: the same for everyone, and true to the millimetre."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_scenes import CURVED, LINEAR, PROBES, SILENT_DB, even, pictures, reflectors, whole

from sonodetr.files import InputError
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

CONFIG = SimulatorConfig(clips=5, frames=3, image_size=(97, 113), seed=7, empty=0.0)


def centre_px(picture: np.ndarray, x_px: float, y_px: float) -> tuple[float, float]:
    """Centre of the bright spot about a place."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    near = np.hypot(columns - x_px, rows - y_px) < 9
    weight = np.where(near, np.clip(picture.astype(float) - 40, 0, None), 0)
    return (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()


@pytest.mark.parametrize("scale", [1.0, 2.7], ids=["fine pixels", "coarse pixels"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_distances_in_the_picture(probe: Probe, mirrored: bool, scale: float) -> None:
    """Points lie where layout and spacing say, to 0.1 mm of 40 mm depth.

    On average over places between pixels, for one pixel may be larger than that.
    """
    unit = probe.depth_mm / 40
    layout = whole(probe, 0.11 * unit * scale, mirrored)
    errors = []
    for shift in np.linspace(0, 1.3, 13, endpoint=False):
        x = np.array([-6.3, 5.1, 0.4]) * unit + shift * layout.mm_per_px
        z = np.array([14.2, 17.9, 28.3]) * unit + shift * layout.mm_per_px
        points = reflectors(x, z, 1.0, 48.0, law_deg=1e4)
        picture = pictures(probe, even(probe, SILENT_DB, surfaces=points), layout)[0]
        expected = np.stack(layout.to_pixels(x, z), 1)
        shown = np.array([centre_px(picture, *place) for place in expected])
        errors.append((shown - expected) * layout.mm_per_px)
    assert np.abs(np.mean(errors, 0)).max() < 0.1 * unit
    assert np.std(errors, 0).max() < 0.4 * layout.mm_per_px


def test_speckle_fills_the_picture_and_nothing_else() -> None:
    """Muscle is 0.4 of full scale; the mean level of its speckle in dB lies 2.5 dB lower."""
    for probe in (LINEAR, CURVED):
        layout = whole(probe)
        picture, inside = pictures(probe, even(probe), layout)[0], layout.mask(probe)
        assert picture[~inside].max() == 0
        assert picture[inside].mean() == pytest.approx(0.4 * 255 - 2.5 * 255 / 60, abs=3)


def test_same_index_same_clip_whatever_came_before() -> None:
    alone = draw_recording(CONFIG, 3)
    pixels = alone.pictures()
    for index in range(3):
        draw_recording(CONFIG, index).pictures()
    torch.manual_seed(1)
    np.random.default_rng(2).random()
    again = draw_recording(CONFIG, 3)
    np.testing.assert_array_equal(again.pictures(), pixels)
    for first, second in zip(alone.labels, again.labels, strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            np.testing.assert_array_equal(first.box_xyxy_px, second.box_xyxy_px)
    assert np.abs(draw_recording(CONFIG, 4).pictures().astype(int) - pixels).mean() > 5
    other = CONFIG.model_copy(update={"seed": 8})
    assert draw_recording(other, 3).probe != alone.probe


def test_more_clips_leave_the_first_as_they_are() -> None:
    more = CONFIG.model_copy(update={"clips": 50})
    np.testing.assert_array_equal(
        draw_recording(more, 2).pictures(), draw_recording(CONFIG, 2).pictures()
    )


def test_threads_do_not_change_a_pixel() -> None:
    recording = draw_recording(CONFIG, 1)
    pixels, threads = recording.pictures(), torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        np.testing.assert_array_equal(recording.pictures(), pixels)
    finally:
        torch.set_num_threads(threads)


def test_chunks_of_four_frames_show_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but a few roundings of grey levels by one."""
    recording = draw_recording(CONFIG.model_copy(update={"frames": 5}), 0)
    plain = replace(
        recording, screen=replace(recording.screen, codec=type(recording.screen.codec)())
    )
    one_by_one = plain.pictures().astype(int)
    monkeypatch.setattr("sonodetr.simulator.recording._FRAMES_AT_ONCE", {"cpu": 4})
    difference = np.abs(plain.pictures() - one_by_one)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_recordings_are_what_was_asked_for() -> None:
    recording = draw_recording(CONFIG, 0)
    assert recording.pictures().shape == (3, 97, 113)
    assert recording.spacing_mm.x_mm == recording.layout.mm_per_px
    assert len(recording.labels) == 3
    rate = CONFIG.model_copy(update={"frame_rate_hz": 13.0})
    np.testing.assert_allclose(np.diff(draw_recording(rate, 0).motion.times_s), 1 / 13)
    empty = CONFIG.model_copy(update={"empty": 1.0})
    assert draw_recording(empty, 0).instrument is None
    assert draw_recording(empty, 0).labels == [None] * 3
    wires = CONFIG.model_copy(update={"instruments": ("guidewire",)})
    wire = draw_recording(wires, 0).instrument
    assert wire is not None
    assert wire.kind == "guidewire"


@pytest.mark.parametrize("index", [-1, 5])
def test_clips_that_do_not_exist(index: int) -> None:
    with pytest.raises(InputError, match=f"no clip {index} of 5; choose 0 to 4"):
        draw_recording(CONFIG, index)
