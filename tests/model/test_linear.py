"""Both ways through a linear layer give the same numbers and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonodetr.model import linear
from sonodetr.model.linear import Linear


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    if not linear.AVAILABLE:
        pytest.skip("this torch has no oneDNN for AVX-512")
    monkeypatch.setattr(linear, "WORTHWHILE", 0)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every product that goes through oneDNN."""
    calls: list[int] = []
    multiply = linear._multiply

    def counted(rows: Tensor, *others: Any) -> Tensor:
        calls.append(len(rows))
        return multiply(rows, *others)

    monkeypatch.setattr(linear, "_multiply", counted)
    return calls


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 13), (2, 7, 13), (2, 3, 5, 13)])
def test_equals_torch(
    shape: tuple[int, ...], bias: bool, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(13, 11, bias=bias), nn.Linear(13, 11, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(shape, requires_grad=True)
    calls = spy(monkeypatch)
    expected = theirs(inputs).relu() if relu else theirs(inputs)
    upstream = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape)
    results = [
        (outputs, *torch.autograd.grad(outputs, [inputs, *layer.parameters()], upstream))
        for layer, outputs in ((ours, ours(inputs, relu=relu)), (theirs, expected))
    ]
    assert len(calls) == 3  # the product, and the two of its gradient
    for given, expected in zip(*results, strict=True):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_views_that_are_not_contiguous() -> None:
    layer = Linear(13, 11)
    turned = torch.randn(2, 13, 7).transpose(1, 2).requires_grad_()
    outputs = layer(turned)
    expected = nn.functional.linear(turned, layer.weight, layer.bias)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.ones(()).expand(2, 7, 11)  # as the gradient of a sum is
    gradients = [torch.autograd.grad(x, turned, upstream)[0] for x in (outputs, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_no_gradient_is_worked_out_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(13, 11)
    calls = spy(monkeypatch)
    layer(torch.randn(3, 13)).sum().backward()
    assert len(calls) == 2  # none for the input
    with torch.no_grad():
        assert layer(torch.randn(3, 13)).grad_fn is None


@pytest.mark.usefixtures("always")
def test_exports_as_a_plain_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(13, 11)
    calls = spy(monkeypatch)
    program = torch.export.export(layer, (torch.randn(3, 13),))
    assert any(node.target is torch.ops.aten.linear.default for node in program.graph.nodes)
    assert calls == []


@pytest.mark.usefixtures("always")
def test_other_precisions_and_devices_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch)
    inputs = torch.randn(3, 13)
    assert Linear(13, 11).double()(inputs.double()).dtype == torch.float64
    assert Linear(13, 11).to("meta")(inputs.to("meta")).shape == (3, 11)
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(13, 11)(inputs).dtype == torch.bfloat16
    monkeypatch.setattr(linear, "WORTHWHILE", 3 * 13 * 11 + 1)
    Linear(13, 11)(inputs)
    assert calls == []
