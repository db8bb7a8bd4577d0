"""Exported graphs in 8 bits, by nncf, and what that costs in average precision."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sonodetr.config import DataConfig
from sonodetr.contract import Contract
from sonodetr.data.splits import select
from sonodetr.engines import open_graphs
from sonodetr.evaluation.evaluate import check_classes, detect, units_of
from sonodetr.evaluation.matches import Matches, match
from sonodetr.evaluation.metrics import average_precisions
from sonodetr.evaluation.statistics import Figures, paired_differences
from sonodetr.export.files import operators, read_graph, write_graph
from sonodetr.export.parity import clips_of
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.predictor import load
from sonodetr.progress import progress_bar
from sonodetr.training.run import DIVISION, read_division
from sonodetr.types import Video

MOST_CLIPS = 300  # that set the ranges, spread evenly over the training part


class Calibration(NamedTuple):
    """Labelled recordings, and the frames of each part as (recording, frame)."""

    videos: Sequence[Video]
    train: Sequence[tuple[int, int]]
    held_out: Sequence[tuple[int, int]]


def read_calibration(
    path: str | os.PathLike[str], run: Path, config: DataConfig, classes: Sequence[str]
) -> Calibration:
    """The data a run was trained on, divided as then; validation and test are held out.

    Raises:
        InputError: it cannot be read, is not that data, or has objects of other classes.
    """
    division = read_division(run)
    if division is None:
        raise InputError(
            f"{run}: has no {DIVISION}, so nothing says which frames may set the ranges and which "
            "must tell what that costs; export without int8"
        )
    images = config.images if os.fspath(path) == config.path else ""
    videos = read(path, images=images, on_bad_label=config.on_bad_label)
    every = [(index, frame) for index, video in enumerate(videos) for frame in video.labels]
    check_classes(videos, every, classes)
    train = select(videos, division, "train")
    held_out = select(videos, division, "validation") + select(videos, division, "test")
    if not (train and held_out):
        raise InputError(
            f"{run / DIVISION}: names no frames to train on, or none that were held out, so 8 bits "
            "cannot be set or judged; export without int8"
        )
    return Calibration(videos, train, held_out)


def quantise_graphs(
    contract: Contract, folder: Path, out: Path, data: Calibration, config: DataConfig
) -> None:
    """Write the graphs of `folder` with weights and activations in 8 bits to `out`.

    Args:
        contract: of `folder`.
        data: its training part sets the ranges.
        config: what the model sees.
    """
    picked = np.linspace(0, len(data.train) - 1, min(len(data.train), MOST_CLIPS)).round()
    samples = [data.train[int(index)] for index in picked]
    clips = list(clips_of(data.videos, samples, config))
    if "detect" in contract.graphs:
        inputs = {"detect": ("pictures", clips)}
    else:
        see = open_graphs(contract, folder, 1)["frame"].run
        features = [np.stack([see(each)["features"].copy() for each in clip]) for clip in clips]
        inputs = {
            "frame": ("picture", [clip[-1] for clip in clips]),
            "clip": ("features", features),
        }
    for name, (taken, arrays) in inputs.items():
        file = contract.graphs[name]
        write_graph(_quantised(read_graph(folder / file), taken, arrays), out / file)


def _quantised(graph: Any, taken: str, arrays: Sequence[np.ndarray]) -> Any:
    """The graph with its convolutional part in 8 bits.

    Args:
        graph: as `read_graph` gives it.
        taken: name of its input.
        arrays: what it is given to set the ranges.
    """
    # nncf would tell its makers of every use; what is missing tells nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # engines/onnx.py says why
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters

    nncf.set_log_level(logging.ERROR)
    parameters = nncf.AdvancedQuantizationParameters(
        # Sums of processors without 8-bit dot products (VNNI) overflow, unless weights have 7 bits.
        overflow_fix=nncf.OverflowFix.ENABLE,
        # One scale a map: ONNX Runtime runs depthwise convolutions with more of them in float32.
        activations_quantization_params=QuantizationParameters(per_channel=False),
    )
    with (
        progress_bar("calibrate", len(arrays), "examples") as advance,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
    ):

        def example(array: np.ndarray) -> dict[str, np.ndarray]:
            advance()
            return {taken: array}

        return nncf.quantize(
            graph,
            nncf.Dataset(arrays, example),
            subset_size=len(arrays),
            ignored_scope=nncf.IgnoredScope(names=_kept(graph, taken), validate=False),
            advanced_parameters=parameters,
        )


def _kept(graph: Any, taken: str) -> list[str]:
    """Operators that stay in float32: all after the last convolution before the transformer, and
    the first convolution, where it reads the picture. What that saves and costs: docs/export.md."""
    names, kinds = zip(*operators(graph), strict=True)
    transformer = kinds.index("Softmax") if "Softmax" in kinds else len(kinds)
    places = [place for place, kind in enumerate(kinds[:transformer]) if kind == "Conv"]
    first = [] if taken == "features" else [names[places[0]]]
    return [*first, *names[places[-1] + 1 :]]


def held_out_loss(before: Path, after: Path, data: Calibration, allowed: float) -> dict[str, Any]:
    """Average precision of two exported folders on frames that did not set the ranges.

    Returns:
        `before`, `after` and `loss` with its interval, on the same draws of recordings.

    Raises:
        InputError: `after` loses more than `allowed`.
    """
    matches = [_matches(folder, data) for folder in (before, after)]
    unit, unit_of_frame = units_of(data.videos, matches[0].video)

    def ap_of(own: Matches) -> Figures:
        return lambda weights: {"ap": average_precisions(own, weights[:, unit_of_frame])["ap"]}

    first, second = map(ap_of, matches)
    loss = paired_differences(first, second, int(unit_of_frame.max()) + 1)["ap"]
    ones = np.ones((1, int(unit_of_frame.max()) + 1), np.int64)
    values = [float(each(ones)["ap"][0]) for each in (first, second)]
    if np.isnan(loss.value):
        raise InputError(
            f"the {len(data.held_out)} frames that did not set the ranges have no objects, so "
            "nothing tells what int8 costs; export without int8, or train with others held out"
        )
    if not loss.value <= allowed:
        raise InputError(
            f"int8 loses {loss.value:.4f} of average precision ({values[0]:.4f} to {values[1]:.4f},"
            f" 95% interval {loss.low:.4f} to {loss.high:.4f}), more than {allowed:g}; export "
            f"without int8, or allow it with --allow-loss {np.ceil(loss.value * 1e3) / 1e3:g}"
        )
    return {
        "before": values[0],
        "after": values[1],
        "loss": loss.to_dict(),
        "frames": len(data.held_out),
        "unit": unit,
        "allowed": allowed,
    }


def _matches(folder: Path, data: Calibration) -> Matches:
    found = detect(load(folder), data.videos, data.held_out)
    return match(data.videos, found, data.held_out)
