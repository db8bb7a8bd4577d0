"""Attention against hand-worked values, the definition, and torch's own multi-head attention."""

import math

import pytest
import torch
from torch import Tensor, nn

from sonodetr.model.attention import CrossAttention, SelfAttention, attend, split_heads

BATCH, ROWS, COLUMNS, HEADS, HEAD_DIM = 2, 5, 7, 3, 11
DIM = HEADS * HEAD_DIM


def projections() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(BATCH, ROWS, DIM, requires_grad=True)
    columns = (torch.randn(BATCH, COLUMNS, DIM, requires_grad=True) for _ in range(2))
    return rows, *columns


def test_heads_are_consecutive_features() -> None:
    tokens = torch.arange(6.0).reshape(1, 1, 6)
    assert split_heads(tokens, 3).tolist() == [[[[0, 1]], [[2, 3]], [[4, 5]]]]


def test_hand_computed() -> None:
    """Logits 2 ln 3 / sqrt(4) = ln 3 and 0 make probabilities 3/4 and 1/4."""
    queries = torch.tensor([[[2 * math.log(3), 0, 0, 0]]])
    keys = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0]]])
    values = torch.tensor([[[4.0, 0, 8, 1], [0, 4, 8, 1]]])
    for capture in (False, True):
        mixed, probabilities = attend(queries, keys, values, 1, capture=capture)
        torch.testing.assert_close(mixed, torch.tensor([[[3.0, 1, 8, 1]]]))
    assert probabilities is not None
    torch.testing.assert_close(probabilities, torch.tensor([[[[0.75, 0.25]]]]))


def test_bias_is_added_to_the_logits() -> None:
    """Equal logits and biases ln 3 and 0 make 3/4 and 1/4 again."""
    queries, keys = torch.zeros(1, 1, 2), torch.randn(1, 2, 2)
    values, bias = torch.tensor([[[4.0, 0], [0, 4]]]), torch.tensor([[[[math.log(3), 0.0]]]])
    for capture in (False, True):
        mixed, _ = attend(queries, keys, values, 1, bias, capture=capture)
        torch.testing.assert_close(mixed, torch.tensor([[[3.0, 1.0]]]))


@pytest.mark.parametrize("biased", [False, True])
def test_fused_equals_explicit(biased: bool) -> None:
    """Outputs, and the gradients of everything that went in."""
    inputs = [*projections()]
    bias = torch.randn(BATCH, HEADS, ROWS, COLUMNS, requires_grad=True) if biased else None
    inputs += [bias] if bias is not None else []
    upstream = torch.randn(BATCH, ROWS, DIM)
    results = []
    for capture in (False, True):
        mixed, probabilities = attend(*inputs[:3], HEADS, bias, capture=capture)
        assert (probabilities is not None) == capture
        results.append((mixed, *torch.autograd.grad(mixed, inputs, upstream)))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fused, explicit, atol=1e-5, rtol=1e-5)


def test_rows_sum_to_one() -> None:
    _, probabilities = attend(*projections(), HEADS, capture=True)
    assert probabilities is not None
    assert probabilities.shape == (BATCH, HEADS, ROWS, COLUMNS)
    assert (probabilities > 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(BATCH, HEADS, ROWS))


def reference(query: Tensor, key: Tensor, value: Tensor, output: nn.Linear) -> nn.Module:
    """torch's attention with the given projections; every argument is [weights, biases]."""
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((query, key, value))[:, :-1])
        theirs.in_proj_bias.copy_(torch.cat((query, key, value))[:, -1])
    theirs.out_proj.load_state_dict(output.state_dict())
    return theirs


def packed(layer: nn.Linear) -> Tensor:
    return torch.cat((layer.weight, layer.bias[:, None]), 1)


@pytest.mark.parametrize("capture", [False, True])
def test_self_attention_equals_torch(capture: bool) -> None:
    torch.manual_seed(0)
    ours = SelfAttention(DIM, HEADS)
    theirs = reference(*packed(ours.query_key).chunk(2), packed(ours.value), ours.output)
    tokens, positions = torch.randn(BATCH, COLUMNS, DIM), torch.randn(1, COLUMNS, DIM)
    placed = tokens + positions
    expected, weights = theirs(placed, placed, tokens, average_attn_weights=False)
    mixed, probabilities = ours(tokens, positions, capture=capture)
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    if probabilities is not None:
        torch.testing.assert_close(probabilities, weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("capture", [False, True])
def test_cross_attention_equals_torch(capture: bool) -> None:
    torch.manual_seed(0)
    ours = CrossAttention(DIM, HEADS)
    theirs = reference(*(packed(x) for x in (ours.query, ours.key, ours.value)), ours.output)
    queries, placed, memory = projections()
    bias = torch.randn(BATCH, HEADS, ROWS, COLUMNS)
    expected, weights = theirs(
        queries, placed, memory, attn_mask=bias.flatten(0, 1), average_attn_weights=False
    )
    mixed, probabilities = ours(queries, placed, memory, bias, capture=capture)
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    if probabilities is not None:
        torch.testing.assert_close(probabilities, weights, atol=1e-6, rtol=1e-5)
