"""Whether an exported model answers what torch does: compared on frames, at every export."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from scipy.optimize import linear_sum_assignment

from sonodetr.config import DataConfig
from sonodetr.contract import Contract
from sonodetr.data.clips import ClipDataset
from sonodetr.engines import Graph, open_graphs
from sonodetr.export.files import add_outputs, read_graph, write_graph
from sonodetr.export.graph import EVERYTHING, everything
from sonodetr.files import InputError
from sonodetr.formats import open_source
from sonodetr.model.decode import decode
from sonodetr.model.dense import rank
from sonodetr.model.detr import DETR
from sonodetr.types import Video

TOLERANCE = 1e-4  # of scores, and of boxes and points in 0..1 of the input
# Short recordings, quickly drawn; of each a frame that has a past, and the last one.
_SIMULATED = [f"simulator:needle-small/test/{number}" for number in range(3)]
_FRAMES = (3, 7)
# Proposals that torch itself tells apart by less than this may change places in other arithmetic.
_TIE = 1e-5

Clip = UInt8[np.ndarray, "time height width channels"]
Run = Callable[[Clip], Mapping[str, np.ndarray]]
OUTPUTS = ("scores", "boxes_cxcywh", "points")


class Rows(NamedTuple):
    """What is said of a clip, row by row, in no order; no columns of points without points."""

    scores: Float32[np.ndarray, "rows _"]
    boxes_cxcywh: Float32[np.ndarray, "rows 4"]
    points: Float32[np.ndarray, "rows _"]


def simulated_clips(config: DataConfig) -> list[Clip]:
    """A handful of clips that every export is compared on."""
    videos = [open_source(address) for address in _SIMULATED]
    samples = [(index, frame) for index in range(len(videos)) for frame in _FRAMES]
    return list(clips_of(videos, samples, config))


def clips_of(
    videos: Sequence[Video], samples: Sequence[tuple[int, int]], config: DataConfig
) -> Iterator[Clip]:
    """The clips that end at these frames (recording, frame), as a model sees them."""
    clips = ClipDataset(videos, samples, config, unlabelled=range(len(samples)))
    for number in range(len(clips)):
        yield np.ascontiguousarray(clips[number].image.transpose(1, 2, 3, 0))


class Parity:
    """Compares an artefact with the model it was made from, clip by clip.

    The last step of a detector, its choice of the best, swaps rows of nearly equal scores as
    rounding falls. So the rows have no order: all queries of both are paired one to one such that
    the largest difference within a pair, summed over all pairs, is smallest; none is left out. The
    answers are compared in the same way with all pairs of query and class, so each must be one, and
    their scores also in order.

    With anchors, the model also chooses its proposals, and every place of that choice has a learned
    vector of its own: where two proposals tie, their swap changes the answers for good reason. A
    clip that differs where torch tells proposals apart by less than 1e-5 therefore counts as
    undecided, not as a failure.

    Args:
        model: in evaluation mode.
        run: the artefact, from a clip to `graph.ANSWERS` and `graph.EVERYTHING` by name.

    Attributes:
        worst: the largest difference so far, of each of `OUTPUTS`.
        clips, undecided: how many were compared, and how many of them are not in `worst`.
    """

    def __init__(self, model: DETR, run: Run) -> None:
        self.model, self.run = model, run
        self.worst = dict.fromkeys(OUTPUTS if model.point_head else OUTPUTS[:-1], 0.0)
        self.clips = self.undecided = 0

    def compare(self, clip: Clip) -> None:
        """Compare one clip.

        Raises:
            InputError: an output differs by more than `TOLERANCE`.
        """
        queries, best, tied = in_torch(self.model, clip)
        found = self.run(clip)
        difference = np.maximum(
            differences(_queries_of(found), queries),
            differences(_answers_of(found), _pairs(queries)),
        )
        difference[0] = np.maximum(difference[0], np.abs(found["scores"] - best).max())
        self.clips += 1
        if tied and difference.max() > TOLERANCE:
            self.undecided += 1
            return
        for name, value in zip(OUTPUTS, difference.tolist(), strict=True):
            if not value <= TOLERANCE:  # NaN too
                raise InputError(
                    f"the exported model is not the trained one: {name} differ by {value:.2g} from "
                    f"torch, more than {TOLERANCE:g}; nothing was written, please report it"
                )
            if name in self.worst:
                self.worst[name] = max(self.worst[name], value)


@torch.inference_mode()
def in_torch(model: DETR, clip: Clip) -> tuple[Rows, Float32[np.ndarray, " found"], bool]:
    """What the model itself says of every query, its best scores, and whether proposals tie."""
    images = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255
    outputs, ranked = model(images), torch.zeros(1, 0)
    if outputs.dense is not None:
        # A cell that is all but beaten, or all but not, is next to its neighbour in this order.
        ranked = rank(outputs.dense, slack=_TIE)
    scores, boxes, *points = everything(outputs, model.config.classification)
    flat = [points[0].flatten(1)] if points else [boxes[:, :0]]
    rows = Rows(*(each.numpy() for each in (scores, boxes, *flat)))
    best = decode(outputs, model.config.classification).scores[0].numpy()
    gaps = ranked[0].sort(descending=True).values.diff().abs()[: model.config.num_queries]
    return rows, best, bool((gaps < _TIE).any())


def differences(ours: Rows, theirs: Rows) -> Float32[np.ndarray, "3"]:
    """Largest difference of scores, boxes and points; every one of our rows has its own of theirs.

    >>> low, high = np.float32([[0.25]]), np.float32([[0.5]])
    >>> box, none = np.float32([[0.5, 0.5, 0.25, 0.25]]), np.zeros((1, 0), np.float32)
    >>> differences(Rows(low, box, none), Rows(high, box, none)).tolist()
    [0.25, 0.0, 0.0]
    """
    each = np.stack(
        [
            np.abs(first[:, None] - second[None]).max(-1, initial=0)
            for first, second in zip(ours, theirs, strict=True)
        ]
    )
    if not np.isfinite(each).all():
        return np.full(3, np.nan, np.float32)
    rows, columns = linear_sum_assignment(each.max(0))
    return each[:, rows, columns].max(1)


def _queries_of(found: Mapping[str, np.ndarray]) -> Rows:
    boxes = found["all_boxes_cxcywh"]
    points = found.get("all_points", boxes[:, :0])
    return Rows(found["all_scores"], boxes, points.reshape(len(boxes), -1))


def _answers_of(found: Mapping[str, np.ndarray]) -> Rows:
    """The answers, with the number of the class beside the score."""
    boxes = found["boxes_cxcywh"]
    points = found.get("points", boxes[:, :0])
    scores = np.stack((found["scores"], found["classes"].astype(np.float32)), 1)
    return Rows(scores, boxes, points.reshape(len(boxes), -1))


def _pairs(queries: Rows) -> Rows:
    """All that may be answered: every query with every class."""
    count, classes = queries.scores.shape
    numbers = np.tile(np.arange(classes, dtype=np.float32), count)
    scores = np.stack((queries.scores.ravel(), numbers), 1)
    return Rows(scores, *(np.repeat(each, classes, 0) for each in queries[1:]))


def open_everything(folder: Path, contract: Contract) -> Run:
    """The graphs of a folder, from a clip to their answers and `EVERYTHING`.

    The answers are those of the files themselves. What they compute before the best are chosen
    comes from copies that also give that.
    """
    answers = _from_clips(open_graphs(contract, folder, 1))
    with TemporaryDirectory() as scratch:
        for file in contract.graphs.values():
            graph = read_graph(folder / file)
            if file != contract.graphs.get("frame"):
                add_outputs(graph, EVERYTHING if contract.points else EVERYTHING[:-1])
            write_graph(graph, Path(scratch) / file)
        queries = _from_clips(open_graphs(contract, scratch, 1))
    return lambda clip: {**queries(clip), **answers(clip)}


def _from_clips(graphs: Mapping[str, Graph]) -> Run:
    """Graphs as one function of a clip."""

    def run(clip: Clip) -> Mapping[str, np.ndarray]:
        if "detect" in graphs:
            return graphs["detect"].run(clip)
        # A runtime may use the memory of an answer again.
        features = [graphs["frame"].run(picture)["features"].copy() for picture in clip]
        return graphs["clip"].run(np.stack(features))

    return run
