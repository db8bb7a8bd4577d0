"""How often do the intervals of an experiment hold the true difference? On made-up experiments.

    python benchmarks/difference_coverage.py

Two methods that are equally good over all recordings there are, some recordings and a few seeds.
Four things move a figure: how hard a recording is for all, how well a method suits a recording, how
good a training turned out, and what a training makes of a recording. The second and the fourth are
as large as each other; the third is made nothing, as large as the fourth in the mean over
recordings, and three times as large. The last line of the output is one JSON object.
"""

import json

import numpy as np

from sonodetr.evaluation.statistics import draw
from sonodetr.experiment.statistics import difference, estimate

TRIALS, RESAMPLES = 2000, 399
HARDNESS, SUITED, ANSWER = 0.2, 0.1, 0.1  # standard deviations
MANY = 37  # recordings
SEEDS = (2, 3, 5, 10)
RATIOS = (0.0, 1.0, 3.0)  # of training to answers, both in the mean over recordings
RECORDINGS = (2, 3, 5, 8, 10, 15)


def coverage(recordings: int, seeds: int, ratio: float) -> float:
    """Share of the experiments whose 95% interval of the difference holds 0."""
    random = np.random.default_rng(0)
    training = ratio * ANSWER / np.sqrt(recordings)
    held = 0
    for trial in range(TRIALS):
        hard = random.normal(0, HARDNESS, (recordings, 1))
        weights = draw(recordings, RESAMPLES, seed=trial)
        methods = []
        for name in ("first", "second"):
            suited = random.normal(0, SUITED, (recordings, 1))
            good = random.normal(0, training, seeds)
            values = hard + suited + good + random.normal(0, ANSWER, (recordings, seeds))
            drawn = weights @ values / recordings
            methods.append(estimate(values.mean(0).tolist(), drawn, f"{trial} {name}"))
        interval = difference(*methods).interval()
        held += interval.low <= 0 <= interval.high
    return held / TRIALS


def main() -> None:
    by_seeds = {seeds: [coverage(MANY, seeds, ratio) for ratio in RATIOS] for seeds in SEEDS}
    few = {number: [coverage(number, seeds, 1.0) for seeds in SEEDS] for number in RECORDINGS}
    heads = [f"trainings vary {ratio:g} times" for ratio in RATIOS]
    _print(f"seeds, {MANY} recordings", heads, by_seeds)
    _print("recordings", [f"{seeds} seeds" for seeds in SEEDS], few)
    print(json.dumps({"by_seeds": by_seeds, "by_recordings": few, "trials": TRIALS}))


def _print(first: str, heads: list[str], rows: dict[int, list[float]]) -> None:
    print(f"| {' | '.join([first, *heads])} |\n{'|---' * (1 + len(heads))}|")
    for number, shares in rows.items():
        print(f"| {number} | " + " | ".join(f"{100 * share:.1f}%" for share in shares) + " |")
    print()


if __name__ == "__main__":
    main()
