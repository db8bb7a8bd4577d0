"""A trained detector as the modules that are exported: preprocessing and decoding inside, nothing
of the training left, one clip without a batch axis, every shape fixed."""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sonodetr.model.backbone import Backbone, Features
from sonodetr.model.decode import MOST
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Outputs

ANSWERS = ("scores", "classes", "boxes_cxcywh", "points")
# The same of every query, before the best are chosen: what the comparison with torch looks at.
EVERYTHING = ("all_scores", "all_boxes_cxcywh", "all_points")


class Graph(NamedTuple):
    """What is exported into one file: `module(example)` gives tensors named `outputs`."""

    module: nn.Module
    input: str
    example: Tensor
    outputs: tuple[str, ...]


class Detect(nn.Module):
    """From the pictures of a clip to its detections."""

    def __init__(self, model: DETR, time: int) -> None:
        super().__init__()
        self.backbone, self.model, self.time = model.backbone, model, time

    def forward(self, pictures: UInt8[Tensor, "time height width channels"]) -> tuple[Tensor, ...]:
        """Returns `ANSWERS` of the best detections, best first, then `EVERYTHING`."""
        return self.answers(self.backbone.see(pictures.permute(0, 3, 1, 2).float(), self.time))

    def answers(self, seen: Features) -> tuple[Tensor, ...]:
        """The same, from what the backbone saw."""
        outputs = self.model.detect(self.model.tokens(seen, self.time), Capture())
        rows = everything(outputs, self.model.config.classification)
        return *_best(rows, self.model.config.classification), *rows


class SeeFrame(nn.Module):
    """From one picture to what `DetectInClip` wants to know of it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self, picture: UInt8[Tensor, "height width channels"]
    ) -> Float[Tensor, " features"]:
        """Returns all maps of the picture, before frames meet, in one row."""
        seen = self.backbone.see(picture.permute(2, 0, 1)[None].float())
        return torch.cat([each.flatten() for each in seen if each is not None])


class DetectInClip(nn.Module):
    """From what `SeeFrame` gives of each frame of a clip to its detections.

    Args:
        detect: the same in one.
        seen: of a frame, for the shapes.
    """

    def __init__(self, detect: Detect, seen: Features) -> None:
        super().__init__()
        self.detect = detect
        self.coarse = seen.coarse.shape[1:]
        self.fine = None if seen.fine is None else seen.fine.shape[1:]

    def forward(self, features: Float[Tensor, "time features"]) -> tuple[Tensor, ...]:
        """Returns what `Detect` does."""
        coarse, fine = features.tensor_split((self.coarse.numel(),), 1)
        details = None if self.fine is None else fine.unflatten(1, self.fine)
        return self.detect.answers(Features(coarse.unflatten(1, self.coarse), details))


def everything(outputs: Outputs, classification: str) -> tuple[Tensor, ...]:
    """What the last layer says of the only clip, before the best are chosen.

    Returns:
        Scores `[queries, classes]`, boxes `[queries, 4]` and, where the model has them, points
        `[queries, 2, 2]`.
    """
    logits = outputs.logits[-1, 0]
    scores = logits.sigmoid() if classification == "focal" else logits.softmax(-1)[:, :-1]
    points = () if outputs.points is None else (outputs.points[-1, 0],)
    return scores, outputs.boxes_cxcywh[-1, 0], *points


def _best(rows: tuple[Tensor, ...], classification: str) -> tuple[Tensor, ...]:
    """The same as `model.decode.decode`, of a single clip, in fewer operators."""
    all_scores, *places = rows
    if classification == "focal":
        num_classes = all_scores.shape[1]
        scores, pair = all_scores.flatten().topk(min(MOST, all_scores.numel()))
        query, classes = pair.div(num_classes, rounding_mode="trunc"), pair % num_classes
    else:
        best, best_class = all_scores.max(-1)
        scores, query = best.topk(min(MOST, len(best)))
        classes = best_class[query]
    return scores, classes, *(place[query] for place in places)


def graphs_of(
    model: DETR, image_size: tuple[int, int], channels: int, time: int
) -> dict[str, Graph]:
    """The graphs that a model is exported as; the model itself is left as it is.

    A model of clips whose backbone sees each frame alone becomes two graphs, so that live use
    computes the features of a frame once.

    Args:
        image_size: height and width in pixels that the model sees.
        channels: 1 or 3, of the pictures.
        time: frames a clip.
    """
    model = copy.deepcopy(model).eval()
    model.auxiliary = False
    model.training_only = nn.ModuleDict()
    detect = Detect(model, time)
    pictures = torch.zeros(time, *image_size, channels, dtype=torch.uint8)
    program = torch.export.export(detect, (pictures,))
    _fold_batch_norms(detect, program)
    _take_bytes(detect, program)
    points = () if model.point_head is None else ("points",)
    outputs = tuple(name for name in (*ANSWERS, *EVERYTHING) if points or "points" not in name)
    if time == 1 or model.backbone.factorised:
        return {"detect": Graph(detect, "pictures", pictures, outputs)}
    seen = model.backbone.see(torch.zeros(1, channels, *image_size))
    frame = SeeFrame(model.backbone)
    features = frame(pictures[0]).expand(time, -1)
    return {
        "frame": Graph(frame, "picture", pictures[0], ("features",)),
        "clip": Graph(DetectInClip(detect, seen), "features", features, outputs),
    }


@torch.no_grad()
def _fold_batch_norms(detect: Detect, program: ExportedProgram) -> None:
    """Let every convolution do the batch norm that alone reads its output; others stay.

    Which belongs to which is seen in the traced graph, so it does not matter how a network names
    and nests its layers.
    """
    names = program.graph_signature.inputs_to_parameters
    for norm in _calls(program, torch.ops.aten.batch_norm.default):
        source = norm.args[0]
        if source.target is not torch.ops.aten.conv2d.default or len(source.users) > 1:
            continue
        weights = source.args[1], norm.args[1]
        if any(weight is None or len(weight.users) > 1 for weight in weights):
            continue
        convolution, batch_norm = (names[weight.name].removesuffix(".weight") for weight in weights)
        first, second = detect.get_submodule(convolution), detect.get_submodule(batch_norm)
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.BatchNorm2d)
        detect.set_submodule(convolution, fuse_conv_bn_eval(first, second))
        detect.set_submodule(batch_norm, nn.Identity())


@torch.no_grad()
def _take_bytes(detect: Detect, program: ExportedProgram) -> None:
    """Let the backbone take images in 0..255 instead of 0..1.

    Where nothing is subtracted, the first convolution also does the division: what it pads with is
    0 before and after. Otherwise it would have to pad with the mean, so the normalisation stays.
    """
    backbone = detect.backbone
    backbone.mean *= 255
    backbone.std *= 255
    first = [
        node
        for node in _calls(program, torch.ops.aten.conv2d.default)
        if node.args[0].target is torch.ops.aten.div.Tensor
    ]
    if backbone.mean.any() or len(first) != 1:
        return
    name = program.graph_signature.inputs_to_parameters[first[0].args[1].name]
    detect.get_parameter(name).div_(backbone.std)
    backbone.std.fill_(1)


def _calls(program: ExportedProgram, operator: Any) -> list[Any]:
    return program.graph.find_nodes(op="call_function", target=operator)
