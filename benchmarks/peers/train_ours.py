"""Train a model of ours as its config in configs/ says, from scratch and without a teacher."""

import shutil
import time
from pathlib import Path
from typing import Any

from peer_data import Found

from sonodetr.config_file import load_config
from sonodetr.data.clips import ClipDataset
from sonodetr.evaluation.evaluate import detect
from sonodetr.files import read_json, write_json
from sonodetr.predictor import load
from sonodetr.training.fit import train as fit

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPE = "its config without the teacher: AdamW, batch 8, EMA, best of eight validations"
VALIDATIONS = 8


def train(
    name: str,
    data: Path,
    frames: int,
    folder: Path,
    side: int,
    samples: int,
    *,
    seed: int,
    rate: float,
) -> dict[str, Any]:
    """Train, or do nothing if it is done. A run that was killed begins anew: nobody knows how long
    it had taken.

    Args:
        name: of the file in configs/.
        data: folder of the data.
        frames: how many of them train.
        folder: of the run.
        side: of the input.
        samples: pictures to see, in whole epochs.
        seed: of the training.
        rate: times the learning rate of the config.

    Returns:
        Samples seen, epochs, and seconds of all of it, validation and start too.
    """
    done = folder / "done.json"
    if not done.is_file():
        shutil.rmtree(folder / "training", ignore_errors=True)
        epochs = max(1, round(samples / frames))
        words = [f"data.path={data}", f"data.image_size=[{side}, {side}]", "name=training"]
        words += [f"seed={seed}", f"train.epochs={epochs}", "train.workers=0"]
        config = load_config(CONFIGS / f"{name}.yaml", words)
        train = {
            "learning_rate": config.train.learning_rate * rate,
            "validate_epochs": max(1, epochs // VALIDATIONS),
        }
        config = config.model_copy(update={"train": config.train.model_copy(update=train)})
        wall_s, processor_s = time.perf_counter(), time.process_time()
        fit(config, folder)
        facts = {"samples": epochs * frames, "epochs": epochs, "batch": config.train.batch_size}
        facts |= {"wall_s": time.perf_counter() - wall_s, "recipe": RECIPE}
        write_json(done, facts | {"processor_s": time.process_time() - processor_s})
    result: dict[str, Any] = read_json(done)
    return result


def find(folder: Path, dataset: ClipDataset) -> Found:
    """What the best weights find in a part."""
    return detect(load(folder / "training"), dataset.videos, dataset.samples)
