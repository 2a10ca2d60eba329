"""Losses of the retriever that sentence-transformers does not have."""

from __future__ import annotations

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.nn.functional import cross_entropy


def fused_loss(cosines: torch.Tensor, labels: torch.Tensor, scale: float) -> torch.Tensor:
    """Half the ranking loss of the cosines, half that of cosines plus lexical scores: the mean, in nats.

    `cosines`: (questions, passages); `labels`: (questions, 2 x passages), what the lexical search adds, then
    the target, whose rows sum to 1.
    """
    lexical, target = labels.to(cosines).chunk(2, dim=1)
    return (cross_entropy(cosines * scale, target) + cross_entropy((cosines + lexical) * scale, target)) / 2


class FusedLoss(MultipleNegativesRankingLoss):  # type: ignore[misc]
    """`fused_loss` over a batch."""

    def compute_loss_from_embeddings(
        self, embeddings: list[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        """The mean over the questions of the batch."""
        return fused_loss(self.similarity_fct(embeddings[0], torch.cat(embeddings[1:])), labels, self.scale)


class CachedFusedLoss(CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The same where a batch does not fit into memory at once."""

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: torch.Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """The mean over the questions of the batch, from embeddings made part by part."""
        passages = torch.cat([part for column in reps[1:] for part in column])
        assert labels is not None
        loss = fused_loss(self.similarity_fct(torch.cat(reps[0]), passages), labels, self.scale)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss
