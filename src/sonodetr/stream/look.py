"""What happens to one frame between capture and sinks: region, clip, model, tracks."""

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sonodetr.predictor import Predictor, RegionChoice, Seen
from sonodetr.stream.flow import Captured, Result, Source
from sonodetr.stream.region import LiveRegion, only_region
from sonodetr.types import Detections, Frame, clip_indices

if TYPE_CHECKING:
    from sonodetr.stream.track import Tracker

# Viewers that choose their own threshold get what scores at least this.
LEAST_SCORE = 0.05


class Look:
    """Finds objects in the frames of one source, one after the other; for one thread.

    Args:
        predictor: the model.
        source: whose frames they are; a recording's region is looked for here.
        threshold: least score of a detection.
        tracker: gives detections ids and steadies them.
        choice: what the model sees; None is as in training.
        show_outside: keep the pixels around the region.

    Attributes:
        region: what the model sees now, in its `state`, which any thread may read.

    Raises:
        InputError: a given region does not lie inside a recording.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: Source,
        threshold: float,
        tracker: "Tracker | None",
        choice: RegionChoice | None,
        show_outside: bool,
    ) -> None:
        self._predictor, self._tracker, self._threshold = predictor, tracker, threshold
        self._show_outside = show_outside
        chosen: RegionChoice = choice or predictor.interface.region  # type: ignore[assignment]
        video = getattr(source, "video", None)
        if video is not None:  # which can be looked through beforehand
            chosen = predictor.with_region(video, chosen).region_px or "full"
        self.region = LiveRegion(chosen)
        interface = predictor.interface
        self._clip_frames, self._clip_step = interface.clip_frames, interface.clip_step
        # Frames that follow each other, are of one size, and show one region.
        self._seen: deque[Seen] = deque(maxlen=(self._clip_frames - 1) * self._clip_step + 1)
        self._seen_of: tuple[object, ...] = ()
        self._stream: tuple[int, ...] = ()

    def warm_up(self) -> None:
        """Run the model once, as the first time is slow."""
        seen = self._predictor.see(Frame(np.zeros(self._predictor.image_size, np.uint8)))
        self._predictor.detect([seen] * self._clip_frames)

    def at(self, captured: Captured) -> Result:
        """What is in a frame.

        Raises:
            InputError: the frame is no picture, or the region does not lie inside it.
        """
        frame = captured.frame
        stream = (captured.part, *frame.pixels.shape[:2])
        if stream != self._stream:
            self._stream = stream
            self.region.restart()
            if self._tracker is not None:
                self._tracker.reset()
        frame = self.region.place(frame, captured.captured_s)
        everything = self._found(frame, captured.part).above(min(LEAST_SCORE, self._threshold))
        if self._tracker is None:
            detections = everything.above(self._threshold)
        else:
            everything = self._tracker.update(everything, self._threshold)
            assert everything.track_ids is not None
            detections = everything.select(everything.track_ids >= 0)
        if not self._show_outside and (frame.region_px or self.region.state == "searching"):
            frame = replace(frame, pixels=only_region(frame.pixels, frame.region_px))
        return Result(frame, detections, everything, captured.captured_s, time.monotonic())

    def _found(self, frame: Frame, part: int) -> Detections:
        seen_of = (part, frame.pixels.shape, frame.region_px)
        if seen_of != self._seen_of:
            self._seen_of = seen_of
            self._seen.clear()
        self._seen.append(self._predictor.see(frame))
        places = clip_indices(len(self._seen) - 1, self._clip_frames, self._clip_step)
        return self._predictor.detect([self._seen[place] for place in places])
