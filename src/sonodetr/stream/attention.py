"""Where a model looks from a point of a frame. Imports no torch: the model brings it."""

from collections.abc import Sequence

import numpy as np

from sonodetr.predictor import Predictor
from sonodetr.stream.viewer_messages import Attended
from sonodetr.types import Frame, clip_indices


class Attention:
    """The last encoder layer's self-attention of a model, put onto the frames that it saw.

    Attributes:
        span: how many of the last frames it takes.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        shape = predictor.interface
        self.span = (shape.clip_frames - 1) * shape.clip_step + 1

    def __call__(self, frames: Sequence[Frame], x_px: float, y_px: float) -> Attended:
        """What the model looks at in the last frame, from a point of it.

        Args:
            frames: the last `span` frames, oldest first, or fewer at the beginning.
            x_px, y_px: in pixels of the last frame; a point beyond what the model sees is moved
                to the edge.

        Raises:
            InputError: a frame is no picture, or its region does not lie inside it.
        """
        shape = self._predictor.interface
        order = clip_indices(len(frames) - 1, shape.clip_frames, shape.clip_step)
        clip = [self._predictor.see(frames[index]) for index in order]
        letterbox = clip[-1].letterbox
        height, width = self._predictor.image_size
        x, y = letterbox.to_input(np.array((x_px, y_px))) / (width, height)
        weights = self._predictor.engine.attention(  # type: ignore[attr-defined]
            [seen.kept for seen in clip], float(x), float(y)
        )
        corners = letterbox.to_frame(np.array(((0.0, 0.0), (width, height))))
        x0, y0, x1, y1 = corners.ravel().tolist()
        return Attended(weights, (x0, y0, x1, y1), (x_px, y_px))


def attention_of(predictor: Predictor) -> Attention | None:
    """The attention of a model that can tell it: one of a run folder, with an encoder."""
    return Attention(predictor) if getattr(predictor.engine, "attends", False) else None
