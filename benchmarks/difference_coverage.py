"""How often do the intervals of an experiment hold the true difference? On made-up experiments.

    python benchmarks/difference_coverage.py

Two methods that are equally good, 37 recordings and a few seeds. Three things move a figure: how
hard a recording is for all, how good a training turned out, and what a training makes of a
recording. The second is made nothing, as large as the third in the mean over recordings, and three
times as large. The last line of the output is one JSON object.
"""

import json

import numpy as np

from sonodetr.evaluation.statistics import draw
from sonodetr.experiment.statistics import difference, estimate

RECORDINGS, TRIALS, RESAMPLES = 37, 2000, 399
HARDNESS, ANSWER = 0.2, 0.1  # standard deviations
SEEDS = (2, 3, 5, 10)
RATIOS = (0.0, 1.0, 3.0)  # of training to answers, both in the mean over recordings


def coverage(seeds: int, ratio: float) -> float:
    """Share of the experiments whose 95% interval of the difference holds 0."""
    random = np.random.default_rng(0)
    training = ratio * ANSWER / np.sqrt(RECORDINGS)
    held = 0
    for trial in range(TRIALS):
        hard = random.normal(0, HARDNESS, (RECORDINGS, 1))
        weights = draw(RECORDINGS, RESAMPLES, seed=trial)
        methods = []
        for name in ("first", "second"):
            good = random.normal(0, training, seeds)
            values = hard + good + random.normal(0, ANSWER, (RECORDINGS, seeds))
            drawn = weights @ values / RECORDINGS
            methods.append(estimate(values.mean(0).tolist(), drawn, f"{trial} {name}"))
        interval = difference(*methods).interval()
        held += interval.low <= 0 <= interval.high
    return held / TRIALS


def main() -> None:
    found = {seeds: [coverage(seeds, ratio) for ratio in RATIOS] for seeds in SEEDS}
    print("| seeds | " + " | ".join(f"trainings vary {ratio:g} times" for ratio in RATIOS) + " |")
    print("|---" * (1 + len(RATIOS)) + "|")
    for seeds, shares in found.items():
        print(f"| {seeds} | " + " | ".join(f"{100 * share:.1f}%" for share in shares) + " |")
    print(json.dumps({"coverage": found, "ratios": RATIOS, "trials": TRIALS}))


if __name__ == "__main__":
    main()
