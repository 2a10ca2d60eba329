"""Losses of the retriever that sentence-transformers does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import pairwise_cos_sim
from torch.nn.functional import cross_entropy

from fieldstone.settings import RetrieverTuning

LSR_TEMPERATURES = {"logprob": 0.1, "probability": 0.01}
"""Of the generator's scores where none is set; 0.01 is RA-DIT's tau for probabilities."""


def loss_of(model: Any, tuning: RetrieverTuning) -> Any:
    """The loss of the settings, for steps that fit into memory; `model` is for the trainer alone."""
    if tuning.loss == "lsr":
        return LsrLoss(model, tuning)
    if tuning.loss == "distill":
        # The loss multiplies by the square of its own student temperature, which at 0.05 would shrink it 400
        # times. Dividing in the similarity leaves the plain divergence, KL(teacher || student), in nats.
        def cosine(questions: Any, passages: Any) -> Any:
            return pairwise_cos_sim(questions, passages) / tuning.student_temperature

        return DistillKLDivLoss(model, cosine, teacher_temperature=tuning.teacher_temperature)
    if tuning.loss == "margin":
        return MarginMSELoss(model, pairwise_cos_sim)
    return FusedLoss(model) if tuning.loss == "fused" else MultipleNegativesRankingLoss(model)


def divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(softmax(first) || softmax(second)) over the last dimension, the mean over the rows, in nats.

    Written out, because `torch.nn.functional.kl_div(input, target)` is KL(target || input).
    """
    ours, theirs = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
    return (ours.exp() * (ours - theirs)).sum(-1).mean()


class LsrLoss(torch.nn.Module):
    """LM-supervised retrieval (REPLUG, Shi et al. 2023, equation 6; RA-DIT, Lin et al. 2024, section 2.3).

    P_R is the softmax of cosine / student_temperature over a question's candidates, Q_LM that of the
    generator's scores / their temperature. `student-teacher` is KL(P_R || Q_LM), as in both papers;
    `teacher-student` is KL(Q_LM || P_R).
    """

    def __init__(self, model: Any, tuning: RetrieverTuning) -> None:
        super().__init__()
        self.model = model
        self._student = tuning.student_temperature
        self._teacher = tuning.lsr_temperature or LSR_TEMPERATURES[tuning.lsr_score]
        self._student_first = tuning.divergence == "student-teacher"

    def forward(self, features: Sequence[dict[str, Any]], scores: torch.Tensor) -> torch.Tensor:
        """The mean over the questions; `features`: those of the questions, then of each place's passages."""
        return self.compute_loss_from_embeddings(
            [self.model(column)["sentence_embedding"] for column in features], scores
        )

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[torch.Tensor], scores: torch.Tensor
    ) -> torch.Tensor:
        """The same of vectors: (questions, dimension) each; `scores`: (questions, candidates)."""
        questions, *passages = embeddings
        cosines = torch.stack([pairwise_cos_sim(questions, column) for column in passages], dim=1)
        student, teacher = cosines / self._student, scores.to(cosines) / self._teacher
        return divergence(student, teacher) if self._student_first else divergence(teacher, student)


class FrozenPassages(torch.nn.Module):
    """Another loss, of questions that learn against passages whose vectors stay as they are.

    `vectors`: (passages, dimension); `places` says of each row which of them are its passages, in order;
    `labels` gives the labels of rows as `loss` wants them.
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        vectors: torch.Tensor,
        places: Sequence[Sequence[int]],
        labels: Callable[[Sequence[int]], list[Any] | None],
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._vectors, self._places, self._labels = loss, vectors, places, labels

    def forward(self, features: Sequence[dict[str, Any]], rows: torch.Tensor) -> torch.Tensor:
        """The loss of a step; the labels of the dataset are the numbers of its rows."""
        return self.against(self.model(features[0])["sentence_embedding"], rows.tolist())

    def against(self, questions: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The loss of these questions' vectors, (rows, dimension), against the passages of their rows."""
        passages = self._vectors[torch.tensor([self._places[row] for row in rows])].to(questions.device)
        labels = self._labels(rows)
        return self._loss.compute_loss_from_embeddings(  # type: ignore[no-any-return]
            [questions.float(), *passages.unbind(1)],
            None if labels is None else torch.tensor(labels, device=questions.device),
        )


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
