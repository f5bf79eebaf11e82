"""Heads for soft targets: logits as defined, and a margin in proportion to the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from facekit.train.heads import CosineClasses, LinearClasses


def test_linear_classes_are_a_linear_layer_without_a_margin() -> None:
    torch.manual_seed(0)
    head, x = LinearClasses(8, 5), torch.randn(3, 8)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias)
    assert set(head.state_dict()) == {"weight", "bias"}
    assert torch.equal(head.harder(head(x), torch.eye(5)[:3]), head(x))


def test_cosine_classes_are_scaled_cosines_of_any_lengths() -> None:
    torch.manual_seed(0)
    head, x = CosineClasses(8, 5, scale=20, margin=0.3), 7 * torch.randn(3, 8)
    wanted = 20 * F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(x), wanted)
    targets = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1.0]])
    torch.testing.assert_close(head.harder(head(x), targets), wanted - 20 * 0.3 * targets)


def test_logits_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    for head in (LinearClasses(8, 5), CosineClasses(8, 5, scale=64, margin=0.3)):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head(x), head.float()(x))
            assert head(x.bfloat16()).dtype == torch.float32
