"""Tuning the encoder: real training of a tiny random BERT, and of MiniLM on real questions."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from fieldstone.errors import ModelError, QuestionsError, SettingsError
from fieldstone.models import Encoder, load_encoder
from fieldstone.models.embedded import minilm_folder
from fieldstone.records import with_context
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.retriever import Contrast, Ranking, Tuned, tune_retriever
from fieldstone.tune.retriever.batches import Row, plan_steps
from small_library import squad_index

Array = np.ndarray[Any, Any]

WORDS = ["harbour", "master", "pilot", "vessel", "radio", "evening", "morning", "cats", "purr", "content"]


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


CONTRASTS = [
    Contrast(words(i, 5), words(1000 + i % 7, 30), (words(1000 + (i + 1) % 7, 30),), f"p{i % 7}")
    for i in range(21)
]
LEXICAL = [
    replace(c, lexical={words(1000 + k, 30): 0.01 * ((i + k) % 5) for k in range(4)}, scores=(-1.0, -1.1))
    for i, c in enumerate(CONTRASTS)
]
RANKINGS = [
    Ranking(
        words(i, 5),
        tuple(words(1000 + (i + k) % 7, 40) for k in range(4)),
        tuple(-0.5 * ((i + k) % 7) for k in range(4)),  # the teacher likes some passages more than others
    )
    for i in range(12)
]
CONTRASTIVE = RetrieverTuning(loss="contrastive", epochs=2, batch=4, learning_rate=1e-3)
FUSED = CONTRASTIVE.model_copy(update={"loss": "fused"})
DISTILL = RetrieverTuning(loss="distill", epochs=2, batch=4, learning_rate=3e-3, teacher_temperature=0.5)
SCORED = [replace(c, scores=(0.5 * (i % 3), -1.0 - 0.25 * (i % 5))) for i, c in enumerate(CONTRASTS)]
MARGIN = CONTRASTIVE.model_copy(update={"loss": "margin", "margin": 0.2, "teacher": 1.0})
ALL = [(CONTRASTS, CONTRASTIVE), (LEXICAL, FUSED), (RANKINGS, DISTILL), (SCORED, MARGIN)]
FEW = 8  # rows: two steps an epoch where a batch is 4


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and a cache of its own."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FIELDSTONE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain encoder without dropout, so that a loss can be computed again."""
    folder = tiny_models.bert(tmp_path_factory.mktemp("bert"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def sentences(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with prompts, a short length and dropout."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = Transformer(str(plain), config_kwargs={"hidden_dropout_prob": 0.2})
    prompts = {"query": "question: ", "document": "text: "}
    model = SentenceTransformer(modules=[inner, Pooling(32, "cls")], prompts=prompts, device="cpu")
    model.max_seq_length = 24
    folder = tmp_path_factory.mktemp("sentences")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


def tune(base: Path, data: Any, into: Path, tuning: RetrieverTuning, **more: Any) -> Tuned:
    return tune_retriever(str(base), data, into, tuning, device="cpu", threads=1, **more)


@pytest.mark.parametrize(("data", "tuning"), ALL)
def test_a_tuned_encoder(
    sentences: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], data: Any, tuning: RetrieverTuning
) -> None:
    from sentence_transformers import SentenceTransformer

    base, data = load_encoder(str(sentences), dtype="float32"), data[:12]
    tuning = tuning.model_copy(update={"epochs": 5})
    seen: list[tuple[str, int, int, str]] = []
    capfd.readouterr()
    tuned = tune(sentences, data, tmp_path / "t", tuning, progress=lambda *said: seen.append(said))
    assert capfd.readouterr() == ("", "")

    before, after = weights(sentences), weights(tuned.folder)
    assert all(np.abs(after[name] - before[name]).max() > 1e-4 for name in before if "pooler" not in name)
    assert len(tuned.losses) == tuned.steps
    an_epoch = tuned.steps // 5
    assert np.mean(tuned.losses[-an_epoch:]) < np.mean(tuned.losses[:an_epoch])
    assert (tuned.folder, tuned.dev_scores, tuned.best, tuned.device) == (tmp_path / "t", (), 5, "cpu")
    assert seen == [("tune retriever", step, tuned.steps, "steps") for step in range(tuned.steps + 1)]

    encoder = load_encoder(str(tuned.folder), dtype="float32")
    theirs = SentenceTransformer(str(tuned.folder), device="cpu")
    texts = [words(5, 4), words(6, 200)]  # the second is cut off
    assert np.allclose(encoder.encode_queries(texts), theirs.encode(texts, prompt_name="query"), atol=1e-5)
    assert np.allclose(
        encoder.encode_passages(texts), theirs.encode(texts, prompt_name="document"), atol=1e-5
    )
    assert (encoder.dimension, encoder.max_tokens) == (base.dimension, base.max_tokens) == (32, 24)
    assert np.abs(encoder.encode_queries(texts) - base.encode_queries(texts)).max() > 1e-3

    facts = json.loads((tuned.folder / "tuned.json").read_text())
    assert (facts["base"], facts["seed"], facts["questions"]) == (str(sentences), 0, len(data))
    assert facts["settings"] == tuning.model_dump(mode="json")
    assert not (tuned.folder / "README.md").exists()
    assert not (tmp_path / "t.tuning").exists()
    assert tune(sentences, data, tmp_path / "t", tuning) == tuned  # at once, from the facts


def test_a_plain_encoder_keeps_its_length_and_pooling(plain: Path, tmp_path: Path) -> None:
    tuning = CONTRASTIVE.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
    tuned = load_encoder(str(tune(plain, CONTRASTS[:FEW], tmp_path / "t", tuning).folder), dtype="float32")
    base = load_encoder(str(plain), dtype="float32")
    assert tuned.max_tokens == base.max_tokens == 128
    assert np.allclose(tuned.encode_passages(WORDS), base.encode_passages(WORDS), atol=1e-5)


@pytest.mark.parametrize("memory", [4e9, 6e6])  # with the little one, a step is worked through in parts
def test_the_first_losses_are_those_of_the_formulas(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    from fieldstone.tune.retriever import sentences

    monkeypatch.setattr(sentences, "_ACTIVATIONS", memory)
    base = load_encoder(str(plain), dtype="float32")

    def first(data: Any, tuning: RetrieverTuning) -> float:
        tuning = tuning.model_copy(update={"epochs": 1})
        return tune(plain, data[:FEW], tmp_path / tuning.loss, tuning, seed=3, dtype="float32").losses[0]

    rows = [Row(("", *item.passages), item.scores, None) for item in RANKINGS[:FEW]]
    divergences = []
    for item in (RANKINGS[i] for i in plan_steps(rows, 4, 1, seed=3)[0][0]):
        cosines = base.encode_passages(item.passages) @ base.encode_queries([item.question])[0]
        teacher, student = np.exp(np.array(item.scores) / 0.5), np.exp(cosines.astype(float) / 0.05)
        teacher, student = teacher / teacher.sum(), student / student.sum()
        divergences.append(np.sum(teacher * np.log(teacher / student)))
    assert first(RANKINGS, DISTILL) == pytest.approx(np.mean(divergences), rel=1e-4)

    rows = [Row(("", item.positive, *item.negatives), (), item.passage_id) for item in CONTRASTS[:FEW]]
    step = [CONTRASTS[i] for i in plan_steps(rows, 4, 1, seed=3)[0][0]]
    passages = base.encode_passages([c.positive for c in step] + [c.negatives[0] for c in step])
    logits = 20 * base.encode_queries([c.question for c in step]).astype(float) @ passages.T
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert first(CONTRASTS, CONTRASTIVE) == pytest.approx(-np.mean(np.diag(logs)), rel=1e-4)

    step = [LEXICAL[i] for i in plan_steps(rows, 4, 1, seed=3)[0][0]]
    texts = [c.positive for c in step] + [c.negatives[0] for c in step]
    added = np.array([[c.lexical.get(text, 0.0) for text in texts] for c in step])
    assert (added > 0).any()
    beside = logits + 20 * added
    beside = beside - np.log(np.exp(beside).sum(1, keepdims=True))
    negative = 0.5 * np.exp(-0.1 / 0.2) / (1 + np.exp(-0.1 / 0.2))  # half of what the teacher leaves it
    target = np.kron([1 - negative, negative], np.eye(len(step)))
    both = -np.mean((target * (logs + beside)).sum(1)) / 2
    assert first(LEXICAL, FUSED) == pytest.approx(both, rel=1e-4)

    rows = [replace(row, passage_id=None) for row in rows]
    step = [SCORED[i] for i in plan_steps(rows, 4, 1, seed=3)[0][0]]
    margins = np.array([c.scores[0] - c.scores[1] for c in SCORED[:FEW]])
    factor = 0.2 / np.sqrt(np.mean(margins**2))
    questions = base.encode_queries([c.question for c in step]).astype(float)
    above = base.encode_passages([c.positive for c in step]) - base.encode_passages(
        [c.negatives[0] for c in step]
    )
    wanted = factor * np.array([c.scores[0] - c.scores[1] for c in step])
    wanted_loss = np.mean(((questions * above).sum(1) - wanted) ** 2)
    assert first(SCORED, MARGIN) == pytest.approx(wanted_loss, rel=1e-4)
    near = MARGIN.model_copy(update={"teacher": 0.25})  # a quarter of the way from its own margins
    assert first(SCORED, near) == pytest.approx(wanted_loss / 16, rel=1e-4)


def test_several_negatives_each_have_their_own_margin(plain: Path, tmp_path: Path) -> None:
    data = [Contrast(r.question, r.passages[0], r.passages[1:], "p", scores=r.scores) for r in RANKINGS]
    tuning = MARGIN.model_copy(update={"negatives": 3, "batch": 16, "margin": 0.1, "epochs": 1})
    tuned = tune(plain, data, tmp_path / "m", tuning, dtype="float32")
    base = load_encoder(str(plain), dtype="float32")
    margins = np.array([[r.scores[0] - other for other in r.scores[1:]] for r in RANKINGS])
    wanted = margins * 0.1 / np.sqrt(np.mean(margins**2))
    found = []
    for r in RANKINGS:
        cosines = base.encode_passages(r.passages) @ base.encode_queries([r.question])[0].astype(float)
        found.append(cosines[0] - cosines[1:])
    assert tuned.losses[0] == pytest.approx(np.mean((np.array(found) - wanted) ** 2), rel=1e-4)


def test_no_false_negative_reaches_the_loss(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched where the trainer's own dataloader hands the texts over."""
    from fieldstone.tune.retriever import sentences

    batches: list[list[Row]] = []
    columns = sentences._columns

    def watched(rows: Sequence[Row]) -> Any:
        def take(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            batches.append([rows[index] for index in batch["row"]])
            return columns(rows)(batch)

        return take

    monkeypatch.setattr(sentences, "_columns", watched)
    tuned = tune(plain, CONTRASTS, tmp_path / "t", CONTRASTIVE)
    assert len(batches) == tuned.steps
    assert sum(map(len, batches)) == 2 * len(CONTRASTS)  # all of them, in both epochs
    for batch in batches:
        assert len({row.passage_id for row in batch}) == len(batch)
        for row in batch:
            others = [text for other in batch for text in other.texts[1 + (other is row) :]]
            assert row.texts[1] not in others


@given(
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 9), max_size=2)), min_size=1, max_size=40),
    st.integers(2, 8),
    st.integers(0, 3),
)
def test_a_plan_holds_every_row_once_an_epoch_and_no_clash(
    drawn: list[tuple[int, list[int]]], batch: int, seed: int
) -> None:
    rows = [
        Row((f"q{i}", f"text {passage}", *(f"text {n}" for n in negatives if n != passage)), (), f"{passage}")
        for i, (passage, negatives) in enumerate(drawn)
    ]
    plan = plan_steps(rows, batch, 2, seed)
    assert plan == plan_steps(rows, batch, 2, seed)
    for epoch in plan:
        assert sorted(index for step in epoch for index in step) == list(range(len(rows)))
        for step in epoch:
            chosen = [rows[index] for index in step]
            assert len(chosen) <= batch
            assert len({len(row.texts) for row in chosen}) == 1
            for row in chosen:
                others = [text for other in chosen if other is not row for text in other.texts[1:]]
                assert row.texts[1] not in others


def test_few_passages_and_many_questions_lose_none() -> None:
    rows = [Row((f"q{i}", f"p{i % 4}"), (), f"{i % 4}") for i in range(40)]
    (epoch,) = plan_steps(rows, 32, 1, 0)
    assert [len(step) for step in epoch] == [4] * 10


def test_rankings_of_different_lengths_are_grouped(plain: Path, tmp_path: Path) -> None:
    data = [
        Ranking(r.question, r.passages[: 2 + i % 3], r.scores[: 2 + i % 3]) for i, r in enumerate(RANKINGS)
    ]
    assert np.isfinite(tune(plain, data, tmp_path / "t", DISTILL).losses).all()


@pytest.mark.parametrize(("data", "tuning"), ALL)
# within the first epoch and within the second
@pytest.mark.parametrize("stop", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: Any,
    tuning: RetrieverTuning,
    stop: int,
) -> None:
    from fieldstone.tune import steps as training

    data = data[:12]  # three or four steps an epoch

    def score(encoder: Encoder) -> float:
        return float(encoder.encode_queries(["cats"])[0, 0])

    def stopping(step: str, done: int, total: int, unit: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    whole = tune(sentences, data, tmp_path / "whole", tuning, dev_score=score)
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(sentences, data, tmp_path / "parts", tuning, dev_score=score, progress=stopping)
    assert not (tmp_path / "parts").exists()
    half = tmp_path / "parts.tuning" / "checkpoint-99"  # a kill while a checkpoint was written
    half.mkdir()
    (half / "trainer_state.json").write_text('{"epoch": 0.')

    steps: list[int] = []
    parts = tune(
        sentences,
        data,
        tmp_path / "parts",
        tuning,
        dev_score=score,
        progress=lambda _, n, *__: steps.append(n),
    )
    assert steps[0] == stop - 1
    assert (parts.losses, parts.dev_scores, parts.best) == (whole.losses, whole.dev_scores, whole.best)
    first, second = weights(whole.folder), weights(parts.folder)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_other_inputs_start_anew(plain: Path, tmp_path: Path) -> None:
    def stopping(step: str, done: int, total: int, unit: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(plain, RANKINGS, tmp_path / "t", DISTILL, progress=stopping)
    steps: list[int] = []
    first = tune(plain, RANKINGS, tmp_path / "t", DISTILL, seed=1, progress=lambda _, n, *__: steps.append(n))
    assert steps[0] == 0
    second = tune(plain, RANKINGS[:8], tmp_path / "t", DISTILL, seed=1)
    assert second.steps < first.steps
    assert json.loads((tmp_path / "t" / "tuned.json").read_text())["questions"] == 8
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["t"]


@pytest.mark.parametrize("scores", [(0.9, 0.5, 0.1), (0.1, 0.2, 0.7)])
def test_the_best_epoch_is_kept(plain: Path, tmp_path: Path, scores: tuple[float, ...]) -> None:
    met: list[np.ndarray[Any, Any]] = []

    def score(encoder: Encoder) -> float:
        met.append(encoder.encode_queries(["cats purr"]))
        return scores[len(met) - 1]

    tuned = tune(plain, RANKINGS, tmp_path / "t", DISTILL, dev_score=score)
    best = 1 + int(np.argmax(scores[1:]))
    assert (tuned.dev_scores, tuned.best) == (scores, best)
    vector = load_encoder(str(tuned.folder)).encode_queries(["cats purr"])
    assert [bool(np.allclose(vector, one, atol=1e-6)) for one in met] == [i == best for i in range(3)]
    assert np.allclose(met[0], load_encoder(str(plain)).encode_queries(["cats purr"]), atol=1e-6)


@pytest.mark.parametrize("name", ["http://host:8000/v1#model", "fake:words", "dual:query=a,passage=b"])
def test_what_has_no_weights_here_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="tune embedded:minilm, a folder or a hub id"):
        tune_retriever(name, CONTRASTS, tmp_path / "t", CONTRASTIVE)


def test_half_of_dpr_is_refused(tmp_path: Path) -> None:
    question, _ = tiny_models.dpr(tmp_path / "dpr")
    with pytest.raises(ModelError, match="half of DPR"):
        tune(question, CONTRASTS, tmp_path / "t", CONTRASTIVE)


@pytest.mark.parametrize(
    ("data", "tuning", "says"),
    [
        ([], DISTILL, "no questions"),
        ([Ranking("why?", ("a", "b"), (0.1,))], DISTILL, "'why.' has 2 candidates and 1 scores"),
        ([Ranking("why?", ("a",), (0.1,))], DISTILL, "two candidates or more"),
        ([Ranking("why?", ("a", "b"), (0.1, float("nan")))], DISTILL, "not a finite number"),
        ([Contrast("why?", "a", (), "1"), Contrast("who?", "a", ("a",), "1")], CONTRASTIVE, "one passage"),
        ([Contrast("why?", "a", ("b",), "1")], MARGIN, "without a teacher's scores"),
        ([Contrast("why?", "a", (), "1", scores=(0.1,))], MARGIN, "no question has a negative"),
        ([Contrast("why?", "a", ("b",), "1", scores=(0.1, float("inf")))], MARGIN, "not a finite number"),
        ([Contrast("why?", "a", ("b",), "1", scores=(0.1, 0.1))], MARGIN, "scores every passage alike"),
    ],
)
def test_data_that_teach_nothing_are_refused(
    plain: Path, tmp_path: Path, data: Any, tuning: RetrieverTuning, says: str
) -> None:
    with pytest.raises(QuestionsError, match=says):
        tune(plain, data, tmp_path / "t", tuning)


def test_data_for_the_other_loss_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"retriever\.loss = distill, but the questions are for contrastive"
    ):
        tune(plain, CONTRASTS, tmp_path / "t", DISTILL)


@dataclass(frozen=True)
class Squad:
    """Eight articles of SQuAD to tune on, four to judge by, and the untuned MiniLM's vectors of those."""

    text: dict[str, str]
    ours: list[dict[str, Any]]
    asked: list[str]
    theirs: list[str]
    gold: list[int]
    before: tuple[Array, Array]

    def vectors(self, encoder: Encoder) -> tuple[Array, Array]:
        """Of the questions and of the passages to judge by."""
        passages = [self.text[id_] for id_ in self.theirs]
        return encoder.encode_queries(self.asked), encoder.encode_passages(passages)

    def reciprocal_ranks(self, vectors: tuple[Array, Array], numbers: int) -> Array:
        """By so many numbers of each vector."""
        questions, passages = (
            its[:, :numbers] / np.linalg.norm(its[:, :numbers], axis=1, keepdims=True) for its in vectors
        )
        scores = questions @ passages.T
        ranks: Array = 1 / (1 + (scores > scores[np.arange(len(self.asked)), self.gold][:, None]).sum(1))
        return ranks


@pytest.fixture(scope="module")
def squad(data: Path) -> Squad:
    passages = [json.loads(line) for line in (data / "squad" / "squad_train_passages.jsonl").open()]
    questions = [json.loads(line) for line in (data / "squad" / "squad_train_slice.jsonl").open()]
    text = {p["id"]: with_context(p["text"], p["title"], ()) for p in passages}
    title = {p["id"]: p["title"] for p in passages}
    held = set(sorted(set(title.values()))[::3])
    theirs = [p["id"] for p in passages if p["title"] in held]
    asked = [q for q in questions if title[q["passage_id"]] in held]
    gold = [theirs.index(q["passage_id"]) for q in asked]
    ours = [q for q in questions if q["passage_id"] not in theirs and len(text[q["passage_id"]]) <= 600]
    its = Squad(text, ours, [q["question"] for q in asked], theirs, gold, (np.empty(0), np.empty(0)))
    return replace(its, before=its.vectors(load_encoder("embedded:minilm")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rows", "numbers"),
    [({}, 480, 384), ({"method": "lora", "lora_rate": 1e-3}, 480, 384), ({"matryoshka": (48,)}, 240, 48)],
    ids=["full", "lora", "matryoshka"],
)
def test_minilm_learns_from_human_questions(
    squad: Squad, tmp_path: Path, how: dict[str, Any], rows: int, numbers: int
) -> None:
    """Tuned on eight articles of SQuAD, it finds more in four others, by so many numbers of each vector."""
    chosen = random.Random(0).sample(squad.ours, rows)
    taught = [Contrast(q["question"], squad.text[q["passage_id"]], (), q["passage_id"]) for q in chosen]
    tuning = RetrieverTuning(loss="contrastive", epochs=1, batch=16, learning_rate=1e-4, **how)
    tuned = tune_retriever("embedded:minilm", taught, tmp_path / "t", tuning)
    before, after = weights(minilm_folder()), weights(tuned.folder)
    assert max(np.abs(after[name] - before[name]).max() for name in before if "layer.5" in name) > 1e-5
    now = squad.vectors(load_encoder(str(tuned.folder)))
    gains = squad.reciprocal_ranks(now, numbers) - squad.reciprocal_ranks(squad.before, numbers)
    assert gains.mean() > 1.96 * gains.std() / len(gains) ** 0.5


@pytest.mark.slow
def test_minilm_learns_by_how_much_the_lexical_search_likes_one_passage_better(
    squad: Squad, data: Path, tmp_path: Path
) -> None:
    """GPL's loss, halfway from its own margins to those of BM25 over the two nearest others."""
    index, examples = squad_index(tmp_path, data, 600)
    texts = index.library.passage_texts()
    ours = {squad.text[q["passage_id"]] for q in squad.ours}
    chosen = random.Random(0).sample([e for e in examples if texts[str(e.passage_id)] in ours], 480)
    asked = [e.question for e in chosen]
    taught = []
    assert index.dense is not None
    found = zip(chosen, index.dense.search(asked, 20), index.lexical.search(asked, len(texts)), strict=True)
    for example, near, lexical in found:
        own, scores = str(example.passage_id), dict(lexical)
        others = [id_ for id_, _ in near if id_ != own and texts[id_] in ours][:2]
        labels = tuple(scores.get(id_, 0.0) for id_ in (own, *others))
        taught.append(
            Contrast(example.question, texts[own], tuple(texts[id_] for id_ in others), own, scores=labels)
        )
    tuning = RetrieverTuning(loss="margin", epochs=1, batch=16, negatives=2)
    tuned = tune_retriever("embedded:minilm", taught, tmp_path / "t", tuning)
    before, after = weights(minilm_folder()), weights(tuned.folder)
    assert max(np.abs(after[name] - before[name]).max() for name in before if "layer.5" in name) > 1e-5
    now = squad.vectors(load_encoder(str(tuned.folder)))
    gains = squad.reciprocal_ranks(now, 384) - squad.reciprocal_ranks(squad.before, 384)
    assert gains.mean() > 1.96 * gains.std() / len(gains) ** 0.5


def test_a_pull_to_the_start_holds_all_weights_there(sentences, tmp_path):
    def weights_in(folder):
        model = SentenceTransformer(str(folder), device="cpu")
        return {name: its.detach().numpy() for name, its in model.named_parameters()}

    from sentence_transformers import SentenceTransformer

    start, moved, losses = weights_in(sentences), [], []
    for pull in (0.0, 1.0, 100.0):
        how = CONTRASTIVE.model_copy(update={"start_pull": pull, "epochs": 1})
        tuned = tune_retriever(str(sentences), CONTRASTS, tmp_path / f"{pull}", how, device="cpu", threads=1)
        found = weights_in(tuned.folder)
        moved.append(sum(float(np.square(found[name] - start[name]).sum()) for name in start))
        losses.append(tuned.losses[0])
    assert moved[0] > moved[1] > moved[2]
    assert losses[0] == pytest.approx(losses[2])  # at the start nothing is pulled
