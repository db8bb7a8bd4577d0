import sys
from dataclasses import replace

import numpy as np
import pytest
from stills import write_stills

from sonodetr.data.splits import Split
from sonodetr.files import InputError
from sonodetr.training import data as training_data
from sonodetr.training.data import Memory, Remembered, open_data

SPLIT = Split([(0, 0), (1, 0)], [(2, 0)], [(3, 0)])


class Counted:
    """Pictures of 7 x 11 bytes that count how often they are decoded."""

    size = (7, 11)

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.decoded.append(index)
        return np.full(self.size, index, np.uint8)


def test_pictures_are_decoded_once_until_there_is_no_more_room():
    frames, memory = Counted(), Memory(room_bytes=2 * 77 + 76)
    first, second = Remembered(0, frames, memory), Remembered(1, frames, memory)
    for _ in range(2):
        assert [int(first[index][0, 0]) for index in (3, 4, 0)] == [3, 4, 0]
    assert frames.decoded == [3, 4, 0, 0]  # no room for the third
    assert int(second[3][0, 0]) == 3
    assert frames.decoded[-1] == 3  # the same number in another recording is another picture
    assert len(first) == 5
    assert first.size == (7, 11)
    assert memory.room_bytes == 76


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("first_step", [0, 2, 5])
def test_order_of_processes_together_is_that_of_one(processes, first_step, tiny):
    data = open_data(tiny(train={"batch_size": 1, "epochs": 4}))
    whole = open_data(tiny(train={"batch_size": processes, "epochs": 4}))
    apart = [list(data.training_order(first_step, r, processes)) for r in range(processes)]
    joint = [[key for keys in step for key in keys] for step in zip(*apart, strict=True)]
    assert joint == list(whole.training_order(first_step, 0, 1))
    assert len(joint) == 4 * -(-5 // processes) - first_step
    validated = [key for r in range(processes) for (key,) in data.validation_order(r, processes)]
    assert sorted(validated) == [(0, 0), (0, 1), (0, 2)]


@pytest.fixture
def others(tmp_path):
    """Five stills with the names of the labelled ones, and other pictures."""
    return write_stills(tmp_path, count=5, seed=7)


def test_recordings_of_one_name_keep_their_own_pictures(tiny, others):
    data = open_data(tiny(data={"unlabelled": str(others)}, distill={"teacher": "any"}))
    assert {video.key for video in data.more} < {video.key for video in data.videos}
    clips = data.training()
    for remembered, video in zip(clips.videos, [*data.videos, *data.more], strict=True):
        assert np.array_equal(remembered.frames[0], video.frames[0])


def test_what_is_held_out_teaches_nothing(tiny, stills, others, monkeypatch):
    """Not by its picture, whatever folder it is named from, and not by its patient."""
    values = {"distill": {"teacher": "any"}}
    for path in (stills, stills.parent):  # with labels, and pictures alone
        with pytest.raises(InputError, match="a recording of the validation or test part"):
            open_data(tiny(data={"unlabelled": str(path)}, **values))
    read = training_data.read

    def of_one_patient(path, **options):
        return [replace(video, patient="p") for video in read(path, **options)]

    open_data(tiny(data={"unlabelled": str(others)}, **values))
    monkeypatch.setattr(training_data, "split", lambda videos, *_: SPLIT)
    monkeypatch.setattr(training_data, "read", of_one_patient)
    with pytest.raises(InputError, match="of a patient of the validation") as error:
        open_data(tiny(data={"unlabelled": str(others)}, **values))
    assert "\n" not in str(error.value)


def test_labels_of_unlabelled_recordings_may_be_bad(tiny, others):
    others.write_text(others.read_text().replace('"category_id": 1', '"category_id": 9'))
    data = open_data(tiny(data={"unlabelled": str(others)}, distill={"teacher": "any"}))
    assert len(data.more) == 5


@pytest.mark.parametrize(
    ("error", "told"),
    [
        *((BrokenPipeError(), False), (ConnectionResetError(), False), (EOFError(), False)),
        *((ValueError("of a picture"), True), (OSError("disk"), True)),
    ],
)
def test_a_worker_whose_training_is_gone_says_nothing(error, told, monkeypatch, capsys):
    """Of other errors in its threads it says all."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # put back afterwards
    monkeypatch.setattr(training_data.cv2, "setNumThreads", lambda number: None)
    training_data._begin_worker(0)
    sys.excepthook(type(error), error, None)
    assert (type(error).__name__ in capsys.readouterr().err) == told
