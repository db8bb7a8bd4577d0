"""Frames that only time resolves: where one of two detectors is right and the other is not.

    python scripts/what_time_resolves.py runs/needle-small runs/needle-3d simulated/needle-small \
        --out docs/results/what-time-resolves.jpg

A detector is right about a frame if it reports as many objects as there are, and each labelled box
overlaps one of them by at least 0.5 (IoU); about an empty frame, if it reports nothing. Each model
reports at its own threshold. Prints how often both, one or none of them is right on the test part,
with 95% intervals by recording, and draws frames that only the second one got right, with the frame
0.3 s before. The last line is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sonodetr.data.splits import select
from sonodetr.draw import Picture, as_rgb, draw, draw_labels, grid
from sonodetr.evaluation.evaluate import detect
from sonodetr.evaluation.statistics import bootstrap_intervals
from sonodetr.files import InputError, read_json
from sonodetr.formats import read
from sonodetr.geometry import box_iou
from sonodetr.predictor import load
from sonodetr.training.pictures import save_picture
from sonodetr.types import Detections, Labels, Video, frame_at

OUTCOMES = ("both", "first only", "second only", "none")
SHOWN, BEFORE = 8, 3


def is_right(found: Detections, labels: Labels) -> bool:
    """As many boxes as labels, each label covered."""
    wanted = labels.boxes_xyxy_px[~labels.crowd]
    if len(found.scores) != len(wanted) or len(wanted) == 0:
        return len(found.scores) == len(wanted)
    return bool((box_iou(wanted, found.boxes_xyxy_px).max(1) >= 0.5).all())


def outcomes(right: np.ndarray) -> np.ndarray:
    """`[frames, 4]` one-hot of OUTCOMES from `[2, frames]`."""
    first, second = right
    return np.stack((first & second, first & ~second, ~first & second, ~first & ~second), 1)


def sheet(
    videos: Sequence[Video],
    frames: Sequence[tuple[int, int]],
    answers: Sequence[dict[tuple[str, int], Detections]],
    thresholds: Sequence[float],
) -> Picture:
    """Rows of: 0.3 s before, labels, the first model's answer, the second one's."""
    pictures = []
    for index, frame in frames:
        video = videos[index]
        pixels = video.frames[frame]
        pictures.append(as_rgb(video.frames[max(0, frame - BEFORE)]))
        pictures.append(draw_labels(pixels, video.labels[frame], video.classes))
        for found, threshold in zip(answers, thresholds, strict=True):
            own = found[video.key, frame].above(threshold)
            shown = replace(frame_at(video, frame), region_px=None)
            pictures.append(draw(shown, own, show_outside=True))
    return grid(pictures, columns=8)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="run folder, of single frames")
    parser.add_argument("second", help="run folder, of clips")
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="picture")
    options = parser.parse_args()
    try:
        videos = read(options.data)
        division, other = (
            read_json(Path(run) / "split.json") for run in (options.first, options.second)
        )
        if division != other:
            raise InputError(
                f"{options.first} and {options.second} divide the data differently (split.json): "
                "one may have learnt what tests the other; train both with the same split"
            )
        frames = select(videos, division, "test")
        models = [load(path) for path in (options.first, options.second)]
        answers = [detect(model, videos, frames) for model in models]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    thresholds = [model.threshold for model in models]
    right = np.array(
        [
            [
                is_right(
                    found[videos[video].key, frame].above(threshold), videos[video].labels[frame]
                )
                for video, frame in frames
            ]
            for found, threshold in zip(answers, thresholds, strict=True)
        ]
    )
    table = outcomes(right)
    unit = np.unique([video for video, _ in frames], return_inverse=True)[1]

    def shares(weights: np.ndarray) -> dict[str, np.ndarray]:
        of_frame = weights[:, unit]
        counts = of_frame @ table / of_frame.sum(1, keepdims=True)
        return dict(zip(OUTCOMES, counts.T, strict=True)) | {
            "second only - first only": counts[:, 2] - counts[:, 1]
        }

    found = bootstrap_intervals(shares, int(unit.max()) + 1)
    print("| right | frames | share |\n|---|---|---|")
    for number, name in enumerate(OUTCOMES):
        each = found[name]
        print(
            f"| {name} | {table[:, number].sum()} | "
            f"{each.value:.1%} ({each.low:.1%} to {each.high:.1%}) |"
        )
    # One frame a recording, so that the examples differ.
    firsts = {frames[row][0]: row for row in np.flatnonzero(table[:, 2])[::-1]}
    rows = sorted(firsts.values())
    chosen = [
        frames[rows[at]] for at in np.linspace(0, len(rows) - 1, min(SHOWN, len(rows)), dtype=int)
    ]
    if chosen:
        save_picture(options.out, sheet(videos, chosen, answers, thresholds))
    print(json.dumps({name: each.to_dict() for name, each in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
