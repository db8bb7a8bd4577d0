"""How often the 95% interval of AP holds the truth, by number of units (see docs/evaluation.md).

Stills with 0 to 4 objects of one class and 6 false detections each; "skill" is how far the scores
of right detections lie above those of wrong ones. AP of 8,000 stills stands for the truth.

    python benchmarks/interval_coverage.py        (half a minute on one core)
"""

import numpy as np

from sonodetr.evaluation.matches import Matches, match
from sonodetr.evaluation.metrics import average_precisions
from sonodetr.evaluation.statistics import bootstrap_intervals
from sonodetr.types import Detections, Labels, Video

STILLS, TRIALS, RESAMPLES = 8000, 150, 300


class NoPicture:
    """A still that nobody looks at."""

    size = (480, 640)

    def __len__(self) -> int:
        return 1


def world(skill: float, seed: int) -> Matches:
    """Made-up stills, some harder than others, with what a made-up detector finds in them."""
    random = np.random.default_rng(seed)
    videos, detections = [], {}
    for number in range(STILLS):
        count, hardness = random.integers(0, 5), random.normal(0, 0.5)
        corner = random.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(20, 150, (count, 2))], 1)
        error_px = random.gamma(2, 3, (count, 1)) * np.exp(hardness)
        wrong = np.tile(random.uniform(0, 300, (6, 2)), 2)
        wrong[:, 2:] += 60
        found = np.concatenate([boxes + random.normal(0, 1, (count, 4)) * error_px, wrong])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        level = np.concatenate([random.normal(skill - hardness, 1, count), random.normal(0, 1, 6)])
        order = np.argsort(-level)
        key = f"still{number}"
        labels = Labels.of(boxes, np.zeros(count, int))
        videos.append(Video(key, NoPicture(), np.zeros(1), ("object",), {0: labels}))
        detections[key, 0] = Detections(
            found[order].astype(np.float32),
            (1 / (1 + np.exp(-level[order]))).astype(np.float32),
            np.zeros(len(order), np.int64),
            ("object",),
        )
    return match(videos, detections)


def main() -> None:
    """Print coverage and bias."""
    print("skill units  figure  truth  mean estimate  coverage")
    for skill in (0.0, 1.5, 3.0):
        everything = world(skill, seed=1)
        truth = average_precisions(everything)
        for units in (10, 23, 60, 200):
            trials = []
            for start in range(0, min(TRIALS * units, STILLS - units + 1), units):
                chosen = (everything.video >= start) & (everything.video < start + units)
                part = everything.only(chosen)
                trials.append(
                    bootstrap_intervals(
                        lambda weights, part=part: average_precisions(part, weights),
                        units,
                        resamples=RESAMPLES,
                    )
                )
            for figure in ("ap", "ap50"):
                goal = float(truth[figure][0])
                held = np.mean([t[figure].low <= goal <= t[figure].high for t in trials])
                mean = np.mean([t[figure].value for t in trials])
                print(f"{skill:5} {units:5}  {figure:6} {goal:6.3f}  {mean:13.3f}  {held:8.2f}")


if __name__ == "__main__":
    main()
