"""Dense multi-head attention that can also return its probabilities.

`softmax(Q K^T / sqrt(d) + bias) V` (Vaswani et al. 2017, equation 1). The fused kernel never forms
the matrix, so a layer forms it explicitly only where it was asked for, or where a bias of the same
size exists anyway; both ways agree to 1e-5 (tests/model/test_attention.py).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.model.linear import Linear


def split_heads(
    tokens: Float[Tensor, "batch tokens dim"], num_heads: int
) -> Float[Tensor, "batch {num_heads} tokens head_dim"]:
    """Cut the feature axis into heads: feature `h * head_dim + i` becomes feature i of head h."""
    return tokens.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(
    queries: Float[Tensor, "batch rows dim"],
    keys: Float[Tensor, "batch columns dim"],
    values: Float[Tensor, "batch columns dim"],
    num_heads: int,
    bias: Float[Tensor, "batch {num_heads} rows columns"] | None = None,
    *,
    capture: bool = False,
) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch {num_heads} rows columns"] | None]:
    """Attention over projected queries, keys and values.

    Args:
        bias: added to the logits before the softmax.
        capture: also return the probabilities; each row sums to one.
    """
    heads_q, heads_k, heads_v = (split_heads(x, num_heads) for x in (queries, keys, values))
    if bias is None and not capture:
        mixed = functional.scaled_dot_product_attention(heads_q, heads_k, heads_v)
        return mixed.transpose(1, 2).flatten(2), None
    scale = heads_q.shape[-1] ** -0.5
    if bias is None:
        logits = heads_q * scale @ heads_k.mT
    else:  # added within the product
        pair = heads_q.flatten(0, 1), heads_k.mT.flatten(0, 1)
        logits = torch.baddbmm(bias.flatten(0, 1), *pair, alpha=scale).view_as(bias)
    probabilities = logits.softmax(-1)
    mixed = (probabilities @ heads_v).transpose(1, 2).flatten(2)
    return mixed, probabilities if capture else None


class SelfAttention(nn.Module):
    """Tokens look at each other; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = Linear(dim, 2 * dim)  # one product, since both read the same input
        self.value = Linear(dim, dim)
        self.output = Linear(dim, dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        positions: Float[Tensor, "#batch tokens dim"],
        *,
        capture: bool = False,
    ) -> tuple[
        Float[Tensor, "batch tokens dim"], Float[Tensor, "batch heads tokens tokens"] | None
    ]:
        """Returns the attended tokens and, where captured, the probabilities."""
        queries, keys = self.query_key(tokens + positions).chunk(2, -1)
        mixed, probabilities = attend(
            queries, keys, self.value(tokens), self.num_heads, capture=capture
        )
        return self.output(mixed), probabilities


class CrossAttention(nn.Module):
    """Object queries look at the encoder's memory."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.output = Linear(dim, dim)

    def forward(
        self,
        queries: Float[Tensor, "batch queries dim"],
        memory_positioned: Float[Tensor, "batch tokens dim"],
        memory: Float[Tensor, "batch tokens dim"],
        bias: Float[Tensor, "batch heads queries tokens"] | None = None,
        *,
        capture: bool = False,
    ) -> tuple[
        Float[Tensor, "batch queries dim"], Float[Tensor, "batch heads queries tokens"] | None
    ]:
        """`queries` carry their positions already; `memory_positioned` is memory plus positions."""
        mixed, probabilities = attend(
            self.query(queries),
            self.key(memory_positioned),
            self.value(memory),
            self.num_heads,
            bias,
            capture=capture,
        )
        return self.output(mixed), probabilities
