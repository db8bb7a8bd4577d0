"""Which rows of an experiment a benchmark has timed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonodetr.config import Config
from sonodetr.config_file import config_from_run
from sonodetr.files import read_json

BENCHMARK = "speed/benchmark.json"  # sonodetr benchmark RUN... --out OUT/speed


def latencies(out: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """What `out / "speed"` says of the networks of these runs; nothing where there is none.

    Networks of one shape take the same time whatever they have learnt, so one timed run of each
    shape is enough.

    Returns:
        A row for each timed configuration: `rows` (which of `runs`, by number), `runtime`,
        `precision`, `threads`, `image_size` and `p50_ms`, `p99_ms` of a whole frame.
    """
    if not (out / BENCHMARK).is_file():
        return []
    shapes = [_shape(config_from_run(run)) for run in runs]
    found = []
    for timed in read_json(out / BENCHMARK)["results"]:
        folder = Path(timed["model"])
        if not (folder / "config.yaml").is_file():
            continue  # an exported folder: nobody knows which run it came from
        config = config_from_run(folder)
        if tuple(timed["image_size"]) != tuple(config.data.image_size):
            continue  # its AP at that size is another one
        rows = [number for number, shape in enumerate(shapes) if shape == _shape(config)]
        if rows:
            kept = {name: timed[name] for name in ("runtime", "precision", "threads", "image_size")}
            times = {f"{name}_ms": timed["frame_ms"][name] for name in ("p50", "p99")}
            found.append({"rows": rows} | kept | times)
    return found


def _shape(config: Config) -> tuple[Any, ...]:
    """All that decides how long a network takes."""
    model = config.model.model_dump(exclude={"weights", "dropout", "query_groups"})
    model["backbone"].pop("pretrained")
    data = config.data
    return model, data.image_size, data.channels, data.clip_frames
