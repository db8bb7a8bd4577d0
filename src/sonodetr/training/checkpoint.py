"""The state of a training between two steps, as one safetensors file.

No random generator is stored: every random number of a step is a function of the seed, the step and
the process (see `fit`), and the data of a step is a function of the seed and the step.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sonodetr.files import InputError
from sonodetr.model.weights import read_safetensors
from sonodetr.training.run import save_weights


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    progress: dict[str, Any],
) -> None:
    """Write everything that the next step depends on, whole or not at all.

    Args:
        path: replaced only when the new file is complete.
        model: the weights being optimised.
        average: the averaged weights, by name.
        optimizer: AdamW; its moments are stored by number of the parameter.
        progress: plain values: step, best figure, validations without a better one.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors["progress"] = torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)
    save_weights(path, tensors)


def load_checkpoint(
    path: Path, model: nn.Module, average: dict[str, Tensor], optimizer: Optimizer
) -> dict[str, Any]:
    """Put the state back; returns `progress`.

    Raises:
        InputError: the file is damaged or belongs to another model.
    """
    tensors = read_safetensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    try:
        progress = json.loads(bytes(tensors.pop("progress").tolist()))
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        model.load_state_dict(parts["model"])
        for name, tensor in parts["average"].items():
            average[name].copy_(tensor)
        state = optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            number, field = name.split(".")
            state["state"].setdefault(int(number), {})[field] = tensor
        optimizer.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: does not fit this run ({error}); delete it to start over"
        ) from None
    return progress
