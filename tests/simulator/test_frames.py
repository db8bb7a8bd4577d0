import pickle

import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats import open_source, read
from sonodetr.simulator import datasets, frames
from sonodetr.simulator.frames import SimulatedFrames, labels_of, simulated_video
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.types import Frames

TINY = SimulatorConfig(clips=2, frames=3, image_size=(64, 80), seed=5, empty=0.0)
PARTS = {
    name: TINY.model_copy(update={"seed": seed, "clips": clips})
    for seed, (name, clips) in enumerate(
        {"train": 3, "validation": 2, "test": 1, "shifted": 2}.items()
    )
}


@pytest.fixture
def tiny_set(monkeypatch):
    monkeypatch.setattr(datasets, "DATA_SETS", {"tiny": PARTS})


@pytest.fixture
def drawn(monkeypatch):
    """The clips whose pictures were made, in order."""
    made = []

    class Made:
        def __init__(self, config, index):
            self.index = index

        def pictures(self):
            made.append(self.index)
            return np.full((3, 64, 80), self.index, np.uint8)

    monkeypatch.setattr(frames, "draw_recording", Made)
    monkeypatch.setattr(frames, "_kept", type(frames._kept)())
    return made


def test_frames_are_those_of_the_recording():
    simulated = SimulatedFrames(TINY, 1)
    expected = draw_recording(TINY, 1).pictures()
    assert isinstance(simulated, Frames)
    assert (len(simulated), simulated.size) == (3, (64, 80))
    assert all((simulated[frame] == expected[frame]).all() for frame in (2, 0, 1))
    assert (simulated[-1] == expected[2]).all()
    with pytest.raises(IndexError):
        simulated[3]


def test_frames_pickle_as_settings_and_a_number():
    simulated = SimulatedFrames(TINY, 1)
    _ = simulated[0]
    data = pickle.dumps(simulated)
    assert len(data) < 1000
    assert pickle.loads(data) == simulated


def test_a_clip_is_made_once_until_there_is_no_more_room(drawn, monkeypatch):
    monkeypatch.setattr(frames, "_MEMORY_BYTES", 2 * 3 * 64 * 80)
    for index in (0, 1, 0, 2, 0, 1):  # 2 goes in for 1, which was used least lately
        assert (SimulatedFrames(TINY, index)[2] == index).all()
    assert drawn == [0, 1, 2, 1]
    SimulatedFrames(TINY, 0)[0][:] = 99  # what was handed out is the caller's own
    assert (SimulatedFrames(TINY, 0)[0] == 0).all()


def test_video_knows_what_the_recording_knows():
    recording, video = draw_recording(TINY, 0), simulated_video(TINY, 0, "train/clip-00000")
    assert video.key == "train/clip-00000"
    assert video.classes == ("needle",)
    assert video.spacing_mm == recording.spacing_mm
    assert video.region_px == recording.layout.rectangle_px
    np.testing.assert_array_equal(video.times_s, recording.motion.times_s)
    assert sorted(video.labels) == [0, 1, 2]
    for frame, label in enumerate(recording.labels):
        found = video.labels[frame]
        assert len(found) == (label is not None)
        if label is not None:
            np.testing.assert_allclose(found.boxes_xyxy_px[0], label.box_xyxy_px, atol=1e-4)
            np.testing.assert_allclose(found.points_px[0, 0], label.tip_px, atol=1e-4)
            np.testing.assert_allclose(found.points_px[0, 1], label.entry_px, atol=1e-4)


def test_kinds_of_instruments_are_the_classes():
    config = TINY.model_copy(update={"instruments": ("guidewire", "needle"), "clips": 9})
    for index in range(9):
        recording = draw_recording(config, index)
        kind = ("guidewire", "needle").index(recording.instrument.kind)
        for labels in labels_of(recording):
            assert set(labels.classes.tolist()) <= {kind}


def test_a_recording_without_instrument_is_labelled_empty():
    video = simulated_video(TINY.model_copy(update={"empty": 1.0}), 0, "a")
    assert [len(video.labels[frame]) for frame in range(3)] == [0, 0, 0]


def test_addresses(tiny_set):
    everything = read("simulator:tiny")
    assert [video.key for video in everything] == [
        *(f"train/clip-0000{index}" for index in range(3)),
        *(f"validation/clip-0000{index}" for index in range(2)),
        "test/clip-00000",
    ]
    shifted = read("simulator:tiny/shifted")
    assert [video.key for video in shifted] == ["shifted/clip-00000", "shifted/clip-00001"]
    one = open_source("simulator:tiny/shifted/1")
    assert (one.key, one.spacing_mm) == ("shifted/clip-00001", shifted[1].spacing_mm)
    assert one.frames == SimulatedFrames(PARTS["shifted"], 1)


@pytest.mark.parametrize(("address", "seed"), [("simulator:", 0), ("simulator:7", 7)])
def test_one_recording_by_seed(address, seed):
    video = open_source(address)
    assert video.key == f"simulator:{seed}"
    assert video.frames.config.seed == seed
    assert len(video) == 64
    assert sum(map(len, video.labels.values())) >= 32


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("simulator:tinny", "did you mean 'tiny'"),
        ("simulator:tiny/tset", "no part 'tset'; did you mean 'test'"),
        ("simulator:tiny/test/1", "no recording '1'; allowed: 0 to 0"),
        ("simulator:tiny/test/-1", "no recording '-1'"),
        ("simulator:tiny/test/" + 5000 * "9", "allowed: 0 to 0"),
        ("simulator:" + 5000 * "9", "is no simulated data set"),
        ("simulator:tiny/test/0/0", "no recording '0/0'"),
        ("simulator:-3", "'-3' is no simulated data set"),
        ("simulator:tiny/shifted", "holds 2 recordings"),
    ],
)
def test_addresses_that_name_nothing(tiny_set, address, message):
    with pytest.raises(InputError, match=message):
        open_source(address)


def test_pictures_elsewhere_make_no_sense():
    with pytest.raises(InputError, match="leave it out"):
        read("simulator:needle-small", images="folder")
