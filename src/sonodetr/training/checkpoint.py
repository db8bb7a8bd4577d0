"""The state of a training between two steps, as one safetensors file.

No random generator is stored: every random number of a step is a function of the seed, the step and
the process (see `fit`), and the data of a step is a function of the seed and the step.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sonodetr.files import InputError
from sonodetr.model.weights import read_safetensors
from sonodetr.training.run import save_weights


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: optimisation steps done.
        best: highest AP on validation data so far, -1 before the first validation.
        waited: validations since then.
        stopped: patience has run out.
        sums: loss terms added up since the epoch began, for its mean.
        counts: how many steps had each of them; a schedule may end within an epoch.
        processes: training together; the batches depend on it.
        scaler: state of fp16's gradient scaling.
    """

    step: int = 0
    best: float = -1.0
    waited: int = 0
    stopped: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    processes: int = 1
    scaler: dict[str, float] | None = None


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    progress: Progress,
) -> None:
    """Write everything that the next step depends on, whole or not at all.

    Args:
        path: replaced only when the new file is complete.
        model: the weights being optimised.
        average: the averaged weights, by name.
        optimizer: AdamW; its moments are stored by number of the parameter.
        progress: stored as JSON in a tensor of its own.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors["progress"] = torch.tensor(
        list(json.dumps(asdict(progress)).encode()), dtype=torch.uint8
    )
    save_weights(path, tensors)


def load_checkpoint(
    path: Path, model: nn.Module, average: dict[str, Tensor], optimizer: Optimizer
) -> Progress:
    """Put the state back.

    Raises:
        InputError: the file is damaged or belongs to another model.
    """
    tensors = read_safetensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        progress = Progress(**json.loads(bytes(tensors.pop("progress").tolist())))
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        model.load_state_dict(parts["model"])
        for name, tensor in average.items():
            tensor.copy_(parts["average"][name])
        for name, tensor in parts["optimizer"].items():
            number, moment = name.split(".")
            parameter = parameters[int(number)]
            # Moments lie in memory as their parameter does; the count of steps has no axes.
            placed = torch.empty_like(parameter).copy_(tensor) if tensor.dim() else tensor
            optimizer.state[parameter][moment] = placed.detach()
    except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{path}: does not fit this run ({reason}); delete it to start over"
        ) from None
    return progress
