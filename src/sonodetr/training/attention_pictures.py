"""Teacher's and student's attention side by side, for the same token of the same clips."""

import cv2
import numpy as np
import torch
from torch import Tensor

from sonodetr.distill.targets import Targets
from sonodetr.draw import Picture, Sheet, as_rgb, grid
from sonodetr.model.tensors import Batch, Grid
from sonodetr.training.distillation import Distillation

_CLIPS = 6
_SIDE_PX = 256  # length of a picture's longer side on the sheet


@torch.no_grad()
def draw_attention(task: Distillation, examples: list[tuple[Batch, Targets]]) -> Sheet | None:
    """One row a clip: the frame with what asks, what the teacher looks at, what the student does.

    What asks is the token in the middle of the first labelled box (encoder) or the teacher's most
    confident query, marked at its box (cross-attention), in the last pair of layers, all heads
    averaged. Both maps are drawn on one scale, white where the teacher looks most.

    Returns:
        None where no map over the picture is compared, or no clip has a box.
    """
    names = [name for name in task.alignment.names if not name.startswith("decoder")]
    if not names:
        return None
    task.student.eval()
    name, tokens = names[-1], task.alignment.grid
    rows: list[Picture] = []
    for batch, targets in examples:
        if len(rows) == 3 * _CLIPS:
            break
        student = task.maps(batch, targets)[name].mean(1)
        teacher = targets[name].mean(1)
        for clip, target in enumerate(batch.targets):
            if len(target.classes) == 0 or len(rows) == 3 * _CLIPS:
                continue
            if name.startswith("encoder"):
                box = target.boxes_cxcywh[0]
                asking = cell_of(box, tokens)
            else:
                asking = int(targets["scores"][clip].amax(-1).argmax())
                box = targets["boxes"][clip, asking]
            image = batch.images[clip, :, -1]
            frame = enlarged(image)
            centre = (box[:2].cpu().numpy() * frame.shape[1::-1]).round().astype(int).tolist()
            marked = cv2.drawMarker(frame.copy(), centre, (230, 159, 0), cv2.MARKER_CROSS, 18, 2)
            maps = teacher[clip, asking], student[clip, asking]
            most = float(maps[0].max())
            rows += [marked, *(heat(frame, each / most, tokens) for each in maps)]
    return grid(rows, columns=6) if rows else None


def cell_of(box_cxcywh: Tensor, tokens: Grid) -> int:
    """The token in which the middle of a box lies."""
    x, y = box_cxcywh[:2].clamp(0, 1 - 1e-6).tolist()
    return int(y * tokens.height) * tokens.width + int(x * tokens.width)


def enlarged(image: Tensor) -> Picture:
    """A frame `[channels, height, width]` in 0..1, larger, as RGB."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    factor = _SIDE_PX / max(pixels.shape[:2])
    large = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return as_rgb(large)


def heat(frame: Picture, attention: Tensor, tokens: Grid) -> Picture:
    """Attention over the frame: hot colours on the darkened picture."""
    cells = attention.clamp(0, 1).reshape(tokens.height, tokens.width).float().cpu().numpy()
    height, width = frame.shape[:2]
    shown = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    hot = cv2.applyColorMap((shown * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    mixed = frame * 0.35 + cv2.cvtColor(hot, cv2.COLOR_BGR2RGB) * 0.65
    return mixed.round().astype(np.uint8)
