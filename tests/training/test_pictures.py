"""Pictures in the run folder."""

import numpy as np

from sonodetr.training.pictures import draw_found
from sonodetr.types import Detections, Labels, Video


class OneFrame:
    """A black still of 200 x 800 pixels."""

    size = (200, 800)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return np.zeros(self.size, np.uint8)


def test_boxes_shrink_with_the_picture():
    labels = Labels.of([[200, 100, 400, 150]], [0])
    video = Video("still", OneFrame(), np.zeros(1), ("needle",), {0: labels})
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("needle",)
    )
    picture = draw_found([video], [(0, 0)], {("still", 0): nothing}, 0.5)
    # 800 px become 384: the box is at x 96 to 192, y 48 to 72; beside it (2 px apart) nothing.
    assert picture.shape == (96, 384 + 2 + 384, 3)
    left, right = picture[:, :384], picture[:, 386:]
    coloured = left.max(2) > 200
    assert coloured[60, 96]
    assert coloured[60, 191]
    assert not coloured[60, 100:188].any()
    assert not right.any()
