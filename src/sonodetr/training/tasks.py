"""What a training optimises: a task turns a batch into a loss and named values for the log."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sonodetr.config import LossConfig
from sonodetr.dense_loss import dense_loss
from sonodetr.model.tensors import Batch, Outputs
from sonodetr.set_loss import set_loss

Task = Callable[[nn.Module, Batch, float], dict[str, Tensor]]  # model, batch, share that is done


@dataclass(frozen=True)
class Detection:
    """Find the labelled objects; the value `loss` is what is minimised.

    Attributes:
        config: weights of the terms.
        classification: "focal" or "softmax", as the model was built.
        accelerator: averages the number of objects over the processes, so that every object weighs
            the same wherever it is processed.
    """

    config: LossConfig
    classification: str
    accelerator: Accelerator

    def __call__(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        return self.of(model(batch.images), batch)

    def of(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The loss of outputs for the labelled clips of a batch."""
        objects = torch.tensor(
            float(sum(len(target.classes) for target in batch.targets)), device=batch.images.device
        )
        named = set_loss(
            outputs, batch.targets, self.config, self.classification, float(self._mean(objects))
        ).named()
        if outputs.dense is None:
            return named
        dense = dense_loss(outputs.dense, batch.targets, self.config, self._mean)
        return named | {"loss": named["loss"] + dense, "dense": dense}

    def _mean(self, total: Tensor) -> Tensor:
        """Over the processes."""
        return self.accelerator.reduce(total, "mean")
