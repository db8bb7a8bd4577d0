"""From what a peer's graph gives to boxes and scores, in numpy, and what a graph costs."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

MOST = 100  # detections a picture
IOU_THRESHOLD = 0.7  # of ultralytics' non-maximum suppression


class Found(NamedTuple):
    """Detections of one class: `[n, 4]` left, top, right, bottom in 0..side; scores never rise."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray


def found_of(answer: str, outputs: list[np.ndarray], side: int, least: float) -> Found:
    """Read the outputs of a graph for one class.

    Args:
        answer: "yolo" `[1, 5, cells]` centre, size, score, and non-maximum suppression is due;
            "end to end" `[1, n, 6]` corners, score, class; "sigmoid" and "softmax" logits
            `[1, queries, classes]` and boxes `[1, queries, 4]` in 0..1 (centre, size), with softmax
            the last class being "no object".
        side: of the input in pixels.
        least: score from which on a detection counts.
    """
    if answer == "yolo":
        rows = outputs[0][0].T
        rows = rows[rows[:, 4] >= least]
        boxes, scores = _corners(rows[:, :4]), rows[:, 4]
        across_down = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        kept = np.array(cv2.dnn.NMSBoxes(across_down, scores, least, IOU_THRESHOLD), int)
    elif answer == "end to end":
        boxes, scores = outputs[0][0, :, :4], outputs[0][0, :, 4]
        kept = np.argsort(-scores, kind="stable")
    else:
        logits = outputs[0][0]
        if answer == "sigmoid":
            scores = 1 / (1 + np.exp(-logits[:, 0]))
        else:
            powers = np.exp(logits - logits.max(1, keepdims=True))
            scores = powers[:, 0] / powers.sum(1)
        boxes = _corners(outputs[1][0]) * side
        kept = np.argsort(-scores, kind="stable")
    kept = kept[:MOST]
    kept = kept[scores[kept] >= least]
    return Found(boxes[kept], scores[kept])


def _corners(boxes_cxcywh: np.ndarray) -> np.ndarray:
    half = boxes_cxcywh[:, 2:] / 2
    return np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], 1)


def network_input(picture: np.ndarray) -> np.ndarray:
    """A grey picture, uint8 `[side, side]`, as float32 `[1, 3, side, side]` in 0..1."""
    plane = picture * np.float32(1 / 255)
    return np.ascontiguousarray(np.broadcast_to(plane, (1, 3, *picture.shape)))


class GraphCost(NamedTuple):
    """Numbers stored in a graph, and 10^9 operations a picture (a multiply-add counts as 2)."""

    parameters: int
    gflops: float


def graph_cost(path: Path) -> GraphCost:
    """Count an ONNX file: its constants, and what convolutions and matrix products do.

    The same count for every detector, of what is really run: batch norms are folded, and heads that
    only training needs are gone.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    operations = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            left, right, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
            if node.op_type == "Conv":
                depth = int(np.prod(right[1:]))
            elif node.op_type == "ConvTranspose":
                depth, made = int(np.prod(right[1:])), left
            else:
                turned = {each.name: each.i for each in node.attribute}.get("transA", 0)
                depth = left[-2] if turned else left[-1]
            operations += 2 * int(np.prod(made)) * depth
    return GraphCost(parameters, operations / 1e9)
