import numpy as np
import pytest

from sonodetr.training.data import Memory, Remembered, open_data


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
    first, second = Remembered("a", frames, memory), Remembered("b", frames, memory)
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
