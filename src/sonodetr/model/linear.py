"""Linear layers that use all of a processor.

On an x86 CPU torch multiplies matrices with MKL, which keeps processors of other makers than Intel
to their older vector instructions. oneDNN, which torch carries for convolutions, does not: on an
AMD processor with AVX-512 it is twice as fast at the same precision (benchmarks/transformer.py).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
# Below this many multiplications a call, oneDNN's longer start costs more than it gains.
WORTHWHILE = 2**21


class Linear(nn.Linear):
    """`nn.Linear`, through oneDNN where that pays; equal to it up to rounding.

    Where it is compiled or exported, on other devices and at other precisions it *is* `nn.Linear`.
    """

    def forward(
        self, input: Float[Tensor, "*rows inputs"], *, relu: bool = False
    ) -> Float[Tensor, "*rows {self.out_features}"]:
        """Returns `input @ weight.T + bias`, with negative values set to zero if `relu`."""
        if (
            AVAILABLE
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and input.numel() * self.out_features >= WORTHWHILE
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            return _Product.apply(input, self.weight, self.bias, relu)
        output = super().forward(input)
        return output.relu_() if relu else output


def _multiply(
    rows: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
    after: str = "none",
) -> Float[Tensor, "*rows outputs"]:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, after, [], "")


class _Product(torch.autograd.Function):
    """The operator of oneDNN has no gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, relu: bool
    ) -> Tensor:
        outputs = _multiply(inputs, weight, bias, "relu" if relu else "none")
        ctx.save_for_backward(inputs, weight, outputs if relu else None)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, rectified = ctx.saved_tensors
        if rectified is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, rectified, 0)
        rows, flat = inputs.flatten(0, -2), gradient.flatten(0, -2)
        of_inputs, of_weight, of_bias, _ = ctx.needs_input_grad
        weight_gradient = None
        if of_weight and weight.shape[0] > weight.shape[1]:  # oneDNN copies what comes first
            weight_gradient = _multiply(rows.t(), flat.t()).t()
        elif of_weight:
            weight_gradient = _multiply(flat.t(), rows.t())
        return (
            _multiply(gradient, weight.t()) if of_inputs else None,
            weight_gradient,
            flat.sum(0) if of_bias else None,
            None,
        )
