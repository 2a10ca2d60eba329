"""The losses of the retriever, by hand on small cases: direction, temperature, who stands where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fieldstone.settings import RetrieverTuning
from fieldstone.tune.retriever.batches import Row, labels_of, plan_steps
from fieldstone.tune.retriever.losses import FrozenPassages, divergence, loss_of

LSR = RetrieverTuning(loss="lsr", towers="query")


def softmax(x):
    powers = np.exp(np.asarray(x, float) - np.max(x))
    return powers / powers.sum()


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_the_divergence_is_that_of_the_first_from_the_second():
    p, q = (0.7, 0.2, 0.1), (0.2, 0.5, 0.3)
    logs = [torch.tensor([[math.log(x) for x in its]]) for its in (p, q)]
    forth = 0.7 * math.log(3.5) + 0.2 * math.log(0.4) + 0.1 * math.log(1 / 3)
    back = 0.2 * math.log(2 / 7) + 0.5 * math.log(2.5) + 0.3 * math.log(3)
    assert float(divergence(*logs)) == pytest.approx(forth, abs=1e-6)
    assert float(divergence(*reversed(logs))) == pytest.approx(back, abs=1e-6)
    assert forth != pytest.approx(back, abs=0.01)
    assert float(divergence(logs[0], logs[0] + 5)) == pytest.approx(0, abs=1e-6)  # a softmax each
    # torch's own takes them the other way round
    theirs = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="batchmean")
    assert float(theirs) == pytest.approx(forth, abs=1e-6)


@pytest.mark.parametrize("direction", ["student-teacher", "teacher-student"])
@pytest.mark.parametrize(
    ("score", "given", "temperature"),
    [("logprob", 0.0, 0.1), ("logprob", 0.5, 0.5), ("probability", 0.0, 0.01)],
)
def test_lsr_is_the_divergence_of_search_and_generator(direction, score, given, temperature):
    scores = [[-0.4, -0.1, -0.9], [-0.2, -0.3, -0.25]]
    if score == "probability":
        scores = [[math.exp(20 * x) / 50 for x in row] for row in scores]
    questions = unit([[1, 0, 0, 0], [0.5, 0.5, 0, 1]])
    passages = [unit([[1, 0.1 * k, 0.3, 0], [0.2, 0.9, k, 1]]) for k in range(3)]
    tuning = LSR.model_copy(
        update={
            "divergence": direction,
            "lsr_score": score,
            "lsr_temperature": given,
            "student_temperature": 0.2,
        }
    )
    loss = loss_of(None, tuning).compute_loss_from_embeddings([questions, *passages], torch.tensor(scores))
    wanted = []
    for i, row in enumerate(scores):
        search = softmax([float(questions[i] @ column[i]) / 0.2 for column in passages])
        generator = softmax([s / temperature for s in row])
        wanted.append(kl(search, generator) if direction == "student-teacher" else kl(generator, search))
    assert float(loss) == pytest.approx(np.mean(wanted), rel=1e-4)
    assert wanted[0] > 0


def test_its_gradient_draws_the_question_to_what_the_generator_likes():
    question = unit([[1, 1]]).requires_grad_()
    passages = [unit([[1, 0]]), unit([[0, 1]])]
    for direction in ("student-teacher", "teacher-student"):
        loss = loss_of(None, LSR.model_copy(update={"divergence": direction}))
        value = loss.compute_loss_from_embeddings([question, *passages], torch.tensor([[-0.1, -2.0]]))
        (gradient,) = torch.autograd.grad(value, question)
        assert gradient[0, 0] < 0 < gradient[0, 1]  # a step goes against it


@pytest.mark.parametrize("loss", ["contrastive", "fused", "distill", "lsr"])
def test_shuffled_rows_keep_their_passages_and_their_scores(loss):
    chance = np.random.default_rng(0)
    tuning = RetrieverTuning(loss=loss, towers="query")
    texts = [f"passage {i}" for i in range(12)]
    vectors = unit(chance.normal(size=(12, 8)))
    questions = unit(chance.normal(size=(6, 8)))
    rows = []
    for i in range(6):
        own = (texts[2 * i], texts[2 * i + 1])
        scores = () if loss == "contrastive" else tuple(softmax(chance.normal(size=2)))
        keys, lexical = (own, {texts[(5 * i) % 12]: 0.3}) if loss == "fused" else ((), {})
        rows.append(Row((f"q{i}", *own), scores, str(i) if keys or not scores else None, keys, lexical))
    places = [(2 * i, 2 * i + 1) for i in range(6)]
    frozen = FrozenPassages(
        None, loss_of(None, tuning), vectors, places, lambda chosen: labels_of([rows[c] for c in chosen])
    )
    steps = plan_steps(rows, 4, 1, seed=3)[0]
    assert any(step != sorted(step) for step in steps)
    for step in steps:
        columns = [torch.stack([vectors[texts.index(rows[r].texts[k])] for r in step]) for k in (1, 2)]
        labels = labels_of([rows[r] for r in step])
        plain = loss_of(None, tuning).compute_loss_from_embeddings(
            [questions[step], *columns], None if labels is None else torch.tensor(labels)
        )
        assert float(frozen.against(questions[step], step)) == pytest.approx(float(plain), rel=1e-6)
