"""Weights held to where they start: L2-SP (Li et al. 2018), and the proximal term of FedProx."""

from __future__ import annotations

from collections.abc import Callable

import torch


def distance_from_here(model: torch.nn.Module) -> Callable[[], torch.Tensor]:
    """Tells how far what learns has gone from where it is now: the sum of squares."""
    here = [(now, now.detach().clone()) for now in model.parameters() if now.requires_grad]
    return lambda: torch.stack(
        [(weights - start.to(weights)).square().sum() for weights, start in here]
    ).sum()
