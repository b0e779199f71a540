"""Products in halves and anchors of tokens, in Triton's interpreter, against float64."""

import pytest
import torch

from aot.reducers import fused_scan
from aot.reducers.cells import normalise

pytest.importorskip("triton", reason="Triton is not installed")


def vectors(clips: int, basis: int, cells: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(width, generator=generator)
    return normalise(shared + torch.randn(clips, basis, cells, width, generator=generator))


@pytest.mark.parametrize("shape", [(2, 3, 50, 64), (1, 2, 9, 33), (1, 5, 64, 100)], ids=str)
@pytest.mark.parametrize("steps", [1, 2])
def test_products_in_halves_are_as_exact_as_in_float32(shape, steps):
    basis = vectors(*shape)
    num_parts, cells = shape[1:3]
    gram = fused_scan.multiply(basis, steps)
    exact = basis.double().flatten(1, 2) @ basis[:, -steps:].double().flatten(1, 2).mT
    for step in range(steps):
        known = slice(0, (num_parts - steps + step + 1) * cells)
        tokens = slice(step * cells, (step + 1) * cells)
        ours, expected = gram[:, known, tokens], exact[:, known, tokens]
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=5e-7)


def test_products_in_float32_are_one_line_away(monkeypatch):
    basis = vectors(1, 2, 20, 32)
    expected = fused_scan.multiply(basis, 1)
    monkeypatch.setattr(fused_scan, "USES_TENSOR_CORES", False)
    torch.testing.assert_close(fused_scan.multiply(basis, 1), expected)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_anchors_are_weighted_sums_of_their_cells_tokens(slots):
    from aot.kernels.products import combine_tokens

    basis = vectors(2, 4, 6, 700)
    weights = torch.randn(2, slots, 4, 6)
    expected = torch.einsum("cmbp,cbpd->cmpd", weights, basis)
    torch.testing.assert_close(combine_tokens(weights, basis), expected, rtol=1e-5, atol=1e-5)
