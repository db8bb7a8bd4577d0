"""Encoder and decoder layers equal torch's; query groups never see each other."""

import pytest
import torch
from torch import nn

from sonodetr.model.transformer import DecoderLayer, EncoderLayer, FeedForward

BATCH, TOKENS, QUERIES, HEADS, HIDDEN = 2, 7, 5, 3, 17
DIM = 3 * 11


def test_feed_forward_by_hand() -> None:
    """relu(W1 (1, 3)) = (4, 0), W2 of it = (0, 4), plus (1, 3) = (1, 7), normalised (-1, 1)."""
    layer = FeedForward(2, 2, 0.0)
    with torch.no_grad():
        layer.expand.weight.copy_(torch.tensor([[1.0, 1], [-1, -1]]))
        layer.contract.weight.copy_(torch.tensor([[0.0, 1], [1, 1]]))
        layer.expand.bias.zero_()
        layer.contract.bias.zero_()
    given = layer(torch.tensor([[[1.0, 3.0]]]))
    torch.testing.assert_close(given, torch.tensor([[[-1.0, 1.0]]]), atol=1e-5, rtol=0)


def copy_attention(theirs: nn.MultiheadAttention, projections: list[nn.Linear]) -> None:
    *inputs, output = projections
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in inputs]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in inputs]))
    theirs.out_proj.load_state_dict(output.state_dict())


def randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in module.parameters():  # also norms and biases, whose start values hide errors
        nn.init.normal_(parameter, std=0.3)


def test_encoder_layer_equals_torch() -> None:
    ours = EncoderLayer(DIM, HEADS, HIDDEN, 0.0)
    randomise(ours)
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True)
    mine = ours.attention
    copy_attention(theirs.self_attn, [mine.query_key, mine.value, mine.output])
    pairs = {
        "norm1": ours.norm,
        "linear1": ours.feedforward.expand,
        "linear2": ours.feedforward.contract,
        "norm2": ours.feedforward.norm,
    }
    for name, layer in pairs.items():
        theirs.get_submodule(name).load_state_dict(layer.state_dict())
    tokens = torch.randn(BATCH, TOKENS, DIM)
    given, probabilities = ours(tokens, torch.zeros(1, TOKENS, DIM))
    assert probabilities is None
    torch.testing.assert_close(given, theirs(tokens), atol=1e-5, rtol=1e-5)


def test_decoder_layer_equals_torch() -> None:
    ours = DecoderLayer(DIM, HEADS, HIDDEN, 0.0)
    randomise(ours)
    theirs = nn.TransformerDecoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True)
    around, across = ours.self_attention, ours.cross_attention
    copy_attention(theirs.self_attn, [around.query_key, around.value, around.output])
    copy_attention(theirs.multihead_attn, [across.query, across.key, across.value, across.output])
    pairs = {
        "norm1": ours.self_norm,
        "norm2": ours.cross_norm,
        "linear1": ours.feedforward.expand,
        "linear2": ours.feedforward.contract,
        "norm3": ours.feedforward.norm,
    }
    for name, layer in pairs.items():
        theirs.get_submodule(name).load_state_dict(layer.state_dict())
    content, memory = torch.randn(BATCH, QUERIES, DIM), torch.randn(BATCH, TOKENS, DIM)
    nowhere = torch.zeros(BATCH, QUERIES, DIM)
    given, _ = ours.look_around(content, nowhere, 1)
    given, _ = ours.look_at_memory(given, nowhere, memory, memory, None)
    torch.testing.assert_close(given, theirs(content, memory), atol=1e-5, rtol=1e-5)


def test_groups_are_as_if_alone() -> None:
    layer = DecoderLayer(DIM, HEADS, HIDDEN, 0.0)
    randomise(layer)
    groups = 3
    content, positions = torch.randn(2, BATCH, groups * QUERIES, DIM)
    together, maps = layer.look_around(content, positions, groups, capture=True)
    assert maps is not None
    assert maps.shape == (BATCH, HEADS, groups * QUERIES, QUERIES)
    for group in range(groups):
        own = slice(group * QUERIES, (group + 1) * QUERIES)
        alone, map_alone = layer.look_around(content[:, own], positions[:, own], 1, capture=True)
        torch.testing.assert_close(together[:, own], alone)
        torch.testing.assert_close(maps[:, :, own], map_alone)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_acts_in_training_alone(training: bool) -> None:
    layer = EncoderLayer(DIM, HEADS, HIDDEN, 0.5).train(training)
    tokens, positions = torch.randn(BATCH, TOKENS, DIM), torch.zeros(1, TOKENS, DIM)
    same = torch.equal(layer(tokens, positions)[0], layer(tokens, positions)[0])
    assert same != training
