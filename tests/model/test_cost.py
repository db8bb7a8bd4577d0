"""Parameters and arithmetic, worked out by hand."""

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.model.cost import Cost, count
from sonodetr.model.detr import DETR


def linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def test_cost_of_learned_queries() -> None:
    dim, hidden, queries, tokens, classes = 32, 17, 5, 6, 3
    config = ModelConfig(
        backbone=BackboneConfig(name="resnet", width=8, depths=(1, 1, 1, 1), stride=32),
        hidden_dim=dim,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        feedforward_dim=hidden,
        queries="learned",
        num_queries=queries,
    )
    model = DETR(config, classes)
    cost = count(model, (64, 96), 1)

    def cells(stride: int) -> int:
        return 64 // stride * 96 // stride

    backbone = cells(2) * 49 * 8 + cells(4) * (9 * 8 * 8 * 2)
    for stage, stride in enumerate((8, 16, 32)):
        inputs, outputs = 8 * 2**stage, 16 * 2**stage
        backbone += cells(stride) * (9 * inputs * outputs + 9 * outputs**2 + inputs * outputs)

    def attention(rows: int, columns: int) -> int:
        projections = 2 * linear(rows, dim, dim) + 2 * linear(columns, dim, dim)
        return projections + 2 * (2 * rows * columns * dim)

    def feedforward(rows: int) -> int:
        return 2 * linear(rows, dim, hidden)

    transformer = linear(tokens, 64, dim) + attention(tokens, tokens) + feedforward(tokens)
    transformer += attention(queries, queries) + attention(queries, tokens) + feedforward(queries)
    heads = linear(queries, dim, classes) + 2 * linear(queries, dim, dim) + linear(queries, dim, 4)
    assert round(cost.gflops * 1e9) == 2 * backbone + transformer + heads
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model.training  # as before


def test_query_groups_cost_nothing_at_inference() -> None:
    def cost(groups: int) -> Cost:
        return count(DETR(ModelConfig(query_groups=groups), 2), (64, 160), 1)

    assert cost(4).gflops == cost(1).gflops
    group = 32 * 128 + (128 * 128 + 128) + 2 * 128  # queries; linear layer and norm of proposals
    assert cost(4).parameters == cost(1).parameters + 3 * group
