"""Encoder and decoder layers of DETR (Carion et al. 2020, appendix A.3), normalised last."""

from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.model.attention import CrossAttention, SelfAttention
from sonodetr.model.linear import Linear


class FeedForward(nn.Module):
    """`norm(x + W2 relu(W1 x))`."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = Linear(dim, hidden)
        self.contract = Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Returns tokens of the same shape."""
        inner = self.expand(tokens, relu=True)
        return self.norm(tokens + self.dropout(self.contract(inner)))


class EncoderLayer(nn.Module):
    """Self-attention over the tokens of a clip, then a feed-forward block."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        positions: Float[Tensor, "#batch tokens dim"],
        *,
        capture: bool = False,
    ) -> tuple[
        Float[Tensor, "batch tokens dim"], Float[Tensor, "batch heads tokens tokens"] | None
    ]:
        """Returns the tokens and, where captured, the attention probabilities."""
        mixed, probabilities = self.attention(tokens, positions, capture=capture)
        return self.feedforward(self.norm(tokens + self.dropout(mixed))), probabilities


class DecoderLayer(nn.Module):
    """Queries look at each other (within their group), then at the memory, then feed forward."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = SelfAttention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def look_around(
        self,
        content: Float[Tensor, "batch queries dim"],
        positions: Float[Tensor, "batch queries dim"],
        groups: int,
        *,
        capture: bool = False,
    ) -> tuple[
        Float[Tensor, "batch queries dim"], Float[Tensor, "batch heads queries group"] | None
    ]:
        """Self-attention. Groups never see each other (Chen et al. 2023, Group DETR)."""
        batch, queries, dim = content.shape
        apart = (batch * groups, queries // groups, dim)
        mixed, probabilities = self.self_attention(
            content.reshape(apart), positions.reshape(apart), capture=capture
        )
        if probabilities is not None:
            heads = probabilities.shape[1]
            probabilities = (
                probabilities.unflatten(0, (batch, groups))
                .transpose(1, 2)
                .reshape(batch, heads, queries, queries // groups)
            )
        return self.self_norm(content + self.dropout(mixed.reshape(content.shape))), probabilities

    def look_at_memory(
        self,
        content: Float[Tensor, "batch queries dim"],
        positions: Float[Tensor, "batch queries dim"],
        memory_positioned: Float[Tensor, "batch tokens dim"],
        memory: Float[Tensor, "batch tokens dim"],
        bias: Float[Tensor, "batch heads queries tokens"] | None,
        *,
        capture: bool = False,
    ) -> tuple[
        Float[Tensor, "batch queries dim"], Float[Tensor, "batch heads queries tokens"] | None
    ]:
        """Cross-attention and the feed-forward block."""
        mixed, probabilities = self.cross_attention(
            content + positions, memory_positioned, memory, bias, capture=capture
        )
        return self.feedforward(self.cross_norm(content + self.dropout(mixed))), probabilities
