"""Tune an encoder on questions and passages, through sentence-transformers' trainer.

`contrastive`: a question's passage against every other passage of the batch and against mined ones
(multiple negatives ranking). `fused`: that, and the same once more with what the lexical search adds to each
cosine, so that the encoder learns what the lexical search does not know already (the idea of CLEAR, Gao et
al. 2021, who put it into the margin of a hinge loss). `distill` (ART, Sachan et al. 2023): a teacher that
needs no labels has scored candidates, and the encoder learns its judgement, KL(softmax(scores /
teacher_temperature) || softmax(cosine / student_temperature)) over the candidates of a question. `lsr`
(REPLUG, Shi et al. 2023; RA-DIT, Lin et al. 2024): the scores are the generator's, of the question's answer
after each candidate. `margin` (GPL, Wang et al. 2022, equation 3; the loss of Hofstätter et al. 2020): a
teacher has scored the passage and mined negatives, and the encoder learns by how much the one scores above
the other, the mean of ((cos(q, p) - cos(q, n)) - (T(q, p) - T(q, n)))^2; T may lie between the teacher's
scores and the cosines of before (`retriever.teacher`).

With `towers = query` the passages' encoder stays as it is, and so do all passages' vectors: only the
questions' side learns, all its weights, low-rank adapters in them, or a small map on its vectors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fieldstone.errors import ModelError, QuestionsError, SettingsError, WorkspaceError
from fieldstone.models import Encoder, Vectors, load_encoder
from fieldstone.models.devices import pick_device, pick_dtype
from fieldstone.models.embedded import minilm_folder
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import read_config, resolve
from fieldstone.models.pooling import read_layout
from fieldstone.models.towers import identity, passage_model, read_adapter, write_towers
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.retriever.batches import Row, plan_steps
from fieldstone.tune.retriever.frozen import freeze

_FACTS = "tuned.json"


@dataclass(frozen=True, slots=True)
class Contrast:
    """One question and its passage; `positive` and `negatives` are texts as the encoder sees them.

    Two questions of one passage never stand in one batch, where each would have the other's passage, its
    own, as a negative. For the fused loss, `lexical` says what the lexical search adds to the cosine of a
    passage, by its text (what it did not find gets nothing), and `scores` what a teacher gives the positive
    and each negative, if there is one; the margin loss needs them.
    """

    question: str
    positive: str
    negatives: tuple[str, ...]
    passage_id: str
    lexical: Mapping[str, float] = field(default_factory=dict)
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """One question with a teacher's score for each candidate (higher is better, any scale)."""

    question: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]


def passages_of(item: Contrast | Ranking) -> tuple[str, ...]:
    """The texts of a question's passages, in order."""
    return (item.positive, *item.negatives) if isinstance(item, Contrast) else item.passages


@dataclass(frozen=True, slots=True)
class Trained:
    """How it went; the weights that were kept lie in `model` in the work folder. As in `Tuned`."""

    losses: tuple[float, ...]
    dev_scores: tuple[float, ...]
    best: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned encoder: `load_encoder(str(folder))` opens it, and so does sentence-transformers.

    With `towers = query` the folder holds the questions' side, which sentence-transformers opens in `query/`.

    `losses` has one number a step; `dev_scores` starts with that of the base and goes on with one an epoch;
    `best` is the epoch that was kept, counted from 1; `seconds` counts all runs that it took. `dtype` is what
    was computed in; the weights are float32 always.
    """

    folder: Path
    steps: int
    seconds: float
    losses: tuple[float, ...]
    dev_scores: tuple[float, ...]
    best: int
    device: str
    dtype: str


def tune_retriever(
    base: str,
    data: Sequence[Contrast] | Sequence[Ranking],
    into: Path,
    tuning: RetrieverTuning,
    *,
    dev_score: Callable[[Encoder], float] | None = None,
    known: Mapping[str, Vectors] | None = None,
    passages: Sequence[str] = (),
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    dtype: str = "auto",
    progress: Progress = silent,
) -> Tuned:
    """Tune the encoder called `base` on `data`; `into` becomes a folder with the facts in tuned.json.

    `dev_score` (higher is better) is taken of the base and after each epoch, and the best epoch is kept even
    if the base beats it, for the gate decides about that; without it, the last epoch is. Until the end all
    lies in a folder beside `into` (`NAME.tuning`), then `into` appears in one rename. Called again with the
    same base, data, settings and seed, it goes on where it was stopped or returns at once; `dev_score` cannot
    be compared, so delete both folders when it has changed. `known` are vectors that `base` has given to
    passages' texts already; with `towers = query` they are not made again. `passages` are what it warms up
    on, if the settings say so. `start` is a file of an adapter to go on from (adapter; other methods go on
    from `base`).

    Raises ModelError for a base that cannot be tuned, QuestionsError for data that teach nothing,
    WorkspaceError for a folder that cannot be written.
    """
    if (beside := passage_model(base)) != base:
        raise ModelError(f"{base!r} is a tuned questions' side already; tune its base: {beside}")
    where = pick_device(device).name
    from fieldstone.tune import together  # only now, as below: it loads torch

    if tuning.method == "adapter":
        rows = _rows(data, tuning)
        return together.first_only(
            lambda: _tune_adapter(
                base, rows, into, tuning, known or {}, dev_score, start, seed, where, threads, progress
            )
        )
    folder, rows = _encoder_folder(base), _rows(data, tuning)
    layout = read_layout(folder)
    prefixes = (layout.query_prefix, layout.passage_prefix)
    weights = weights_fingerprint(folder, layout.modes, prefixes, layout.lower, layout.max_tokens)
    settings = tuning.model_dump(mode="json")
    warming = passages if tuning.warm_up == "tsdae" else ()
    inputs = fingerprint(
        weights, json.dumps(settings), seed, dtype, dev_score is not None, *rows, *map(_key, warming)
    )

    work = into.with_name(f"{into.name}.tuning")
    if done := together.first_only(lambda: finished(into, inputs)):
        shutil.rmtree(work, ignore_errors=True)
        return done
    # float16 gradients would underflow
    precision = "bfloat16" if pick_dtype(where, dtype) == "bfloat16" else "float32"
    encoder = load_encoder(base, device=where, threads=threads, dtype=dtype)
    frozen = freeze(rows, encoder, known or {}, progress) if tuning.towers == "query" else None
    if tuning.loss == "margin" and tuning.teacher < 1:
        rows = _halfway(rows, encoder, tuning.teacher)
    read = {text for row in rows for text in (row.texts[:1] if frozen else row.texts)}
    plan = plan_steps(rows, tuning.batch, tuning.epochs, seed)
    from fieldstone.tune.retriever.sentences import train  # only now: it loads torch

    with _room(into):
        together.first_only(lambda: prepare(work, inputs))
        if warming:
            from fieldstone.tune.retriever.warm_up import warm_up

            folder, _ = together.first_only(
                lambda: warm_up(
                    folder, [prefixes[1] + text for text in warming], work / "warm", tuning,
                    max_tokens=encoder.max_tokens, seed=seed, device=where, threads=threads,
                    progress=progress,
                )
            )  # fmt: skip
        trained = train(
            folder,
            [row.prefixed(*prefixes) for row in rows],
            plan,
            work,
            tuning,
            towers=(base, identity(encoder)) if frozen else None,
            frozen=frozen,
            max_tokens=encoder.max_tokens,  # so that the tuned one learns from what it will see
            longest=min(max(1, *encoder.count_tokens(list(read))), encoder.max_tokens),
            dev_score=dev_score,
            seed=seed,
            device=where,
            threads=threads,
            dtype=precision,
            progress=progress,
        )
        facts = {"base": base, "inputs": inputs, "questions": len(rows), "seed": seed, "settings": settings}
        facts |= {"device": where, "dtype": precision, "steps": len(trained.losses)}
        return together.first_only(lambda: publish(work, facts | dataclasses.asdict(trained), into))


def _tune_adapter(
    base: str,
    rows: Sequence[Row],
    into: Path,
    tuning: RetrieverTuning,
    known: Mapping[str, Vectors],
    dev_score: Callable[[Encoder], float] | None,
    start: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    progress: Progress,
) -> Tuned:
    """The same for the map on the questions' vectors, which any encoder can have."""
    encoder = load_encoder(base, device=device, threads=threads)
    settings = tuning.model_dump(mode="json")
    whose = (identity(encoder), encoder.fingerprint)
    begun = read_adapter(start) if start else None
    inputs = fingerprint(
        *whose, json.dumps(settings), seed, dev_score is not None, *rows, *(a.tobytes() for a in begun or ())
    )
    work = into.with_name(f"{into.name}.tuning")
    if done := finished(into, inputs):
        shutil.rmtree(work, ignore_errors=True)
        return done
    frozen = freeze(rows, encoder, known, progress)
    plan = plan_steps(rows, tuning.batch, tuning.adapter_epochs, seed)
    from fieldstone.tune.retriever.adapter import train_adapter  # only now: it loads torch

    with _room(into):
        prepare(work, inputs)
        write_towers(work / "model", base, identity(encoder))
        trained = train_adapter(
            encoder, rows, plan, frozen, work / "model", tuning,
            start=begun, dev_score=dev_score, threads=threads, progress=progress,
        )  # fmt: skip
        facts = {"base": base, "inputs": inputs, "questions": len(rows), "seed": seed, "settings": settings}
        facts |= {"device": "cpu", "dtype": "float32", "steps": len(trained.losses)}
        return publish(work, facts | dataclasses.asdict(trained), into)


@contextmanager
def _room(into: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{into} cannot be written: {error}; make room there and start again: it goes on where it stopped"
        ) from error


def _encoder_folder(base: str) -> Path:
    """Where the weights of `base` are; ModelError for an encoder that has none here."""
    scheme = base.partition(":")[0]
    if scheme in ("http", "https"):
        raise ModelError(
            f"{base!r} is a model server, whose weights cannot be tuned from here; "
            "tune embedded:minilm, a folder or a hub id, and serve the result"
        )
    if scheme in ("dual", "fake"):
        raise ModelError(
            f"{base!r} cannot be tuned; tune embedded:minilm, a folder or a hub id, or say --recipe guide to "
            "tune nothing"
        )
    folder = minilm_folder() if base == "embedded:minilm" else resolve(base)
    architectures = read_config(base, read_layout(folder).transformer).architectures or [""]
    if architectures[0].startswith("DPR"):
        raise ModelError(
            f"{base!r} is one half of DPR, which cannot be tuned here; tune embedded:minilm instead"
        )
    return folder


def _rows(data: Sequence[Contrast] | Sequence[Ranking], tuning: RetrieverTuning) -> list[Row]:
    """The data as rows, cut to the negatives and candidates that `tuning` asks for."""
    rows = [
        _contrast(item, tuning) if isinstance(item, Contrast) else _ranking(item, tuning.candidates)
        for item in data
    ]
    if not rows:
        raise QuestionsError("there are no questions to tune the retriever on; write or gather some first")
    ranked = tuning.loss in ("distill", "lsr")
    kinds = ("contrastive, fused or margin", "distill or lsr")
    given = {kinds[isinstance(item, Ranking)] for item in data}
    if given != {kinds[ranked]}:
        raise SettingsError(
            f"retriever.loss = {tuning.loss}, but the questions are for {' and '.join(sorted(given))}"
        )
    if tuning.loss == "margin":
        return _margins(rows, tuning.margin)
    if not ranked and len({row.passage_id for row in rows}) == 1 and len(rows[0].texts) == 2:
        raise QuestionsError(
            f"all {len(rows)} questions stand on one passage, without negatives: there is nothing to tell it "
            "from; add documents, or set retriever.negatives = 1"
        )
    return rows


def _contrast(item: Contrast, tuning: RetrieverTuning) -> Row:
    scores = item.scores or (0.0,) * (1 + len(item.negatives))
    if len(scores) != 1 + len(item.negatives):
        raise QuestionsError(f"{item.question!r}: {len(scores)} scores for {len(item.negatives)} negatives")
    others = zip(item.negatives, scores[1:], strict=True)
    negatives = [(text, score) for text, score in others if text != item.positive][: tuning.negatives]
    passages = (item.positive, *(text for text, _ in negatives))
    if tuning.loss == "margin":
        if not item.scores:
            raise QuestionsError(f"{item.question!r} comes without a teacher's scores, which a margin needs")
        return Row((item.question, *passages), (scores[0], *(score for _, score in negatives)), None)
    if tuning.loss == "contrastive":
        return Row((item.question, *passages), (), item.passage_id)
    share = tuning.teacher if item.scores else 0.0
    taught = _softmax((scores[0], *(score for _, score in negatives)), tuning.teacher_temperature)
    target = tuple(share * its + (1 - share) * (place == 0) for place, its in enumerate(taught))
    lexical = {_key(text): value for text, value in item.lexical.items()}
    return Row((item.question, *passages), target, item.passage_id, tuple(map(_key, passages)), lexical)


def _margins(rows: Sequence[Row], wanted: float) -> list[Row]:
    """The rows that have a negative, their scores scaled so that the margins' root mean square is `wanted`.

    A teacher's margins are logits or nats, the student's differences of cosines, which lie within -2 and 2.
    The scores are multiplied by one number for all rows and not moved, so that equal scores stay a margin of
    0. (GPL's code scales by the largest margin, so one outlier decides; its `cos_sim` never normalises.)
    """
    rows = [row for row in rows if len(row.texts) > 2]
    margins = [row.scores[0] - other for row in rows for other in row.scores[1:]]
    if not margins:
        raise QuestionsError("no question has a negative with a teacher's score; add documents")
    if not all(map(math.isfinite, margins)):
        raise QuestionsError("a teacher's score is not a finite number; leave that question out")
    spread = math.sqrt(sum(margin * margin for margin in margins) / len(margins))
    if not spread:
        raise QuestionsError("the teacher scores every passage alike: there is nothing to learn from it")
    factor = wanted / spread
    return [replace(row, scores=tuple(factor * score for score in row.scores)) for row in rows]


def _halfway(rows: Sequence[Row], encoder: Encoder, share: float) -> list[Row]:
    """The rows with targets between the cosines that the encoder gives now and the teacher's scores.

    What both agree on then asks for nothing, and the rest of the space stays as it is.
    """
    texts = list(dict.fromkeys(text for row in rows for text in row.texts[1:]))
    vectors = dict(zip(texts, encoder.encode_passages(texts), strict=True))
    asked = encoder.encode_queries([row.texts[0] for row in rows])
    return [
        replace(
            row,
            scores=tuple(
                share * score + (1 - share) * float(question @ vectors[text])
                for score, text in zip(row.scores, row.texts[1:], strict=True)
            ),
        )
        for row, question in zip(rows, asked, strict=True)
    ]


def _softmax(scores: Sequence[float], temperature: float) -> list[float]:
    powers = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


@lru_cache(maxsize=1 << 16)
def _key(text: str) -> str:
    return fingerprint(text)


def _ranking(item: Ranking, most: int) -> Row:
    if len(item.passages) != len(item.scores) or len(item.passages) < 2:
        raise QuestionsError(
            f"{item.question!r} has {len(item.passages)} candidates and {len(item.scores)} scores; "
            "give two candidates or more, and a score for each"
        )
    if not all(map(math.isfinite, item.scores)):
        raise QuestionsError(f"{item.question!r}: a score is not a finite number; leave that candidate out")
    return Row((item.question, *item.passages[:most]), item.scores[:most], None)


def prepare(work: Path, inputs: str) -> None:
    """An empty `work` folder, but for one that a killed run with the same inputs has left."""
    note = work / "inputs.txt"
    if not (note.is_file() and note.read_text() == inputs):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        note.write_text(inputs)


def finished(folder: Path, inputs: str) -> Tuned | None:
    """What an earlier run with the same inputs has made."""
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if facts.get("inputs") != inputs:
        return None
    return Tuned(
        folder=folder,
        steps=facts["steps"],
        seconds=facts["seconds"],
        losses=tuple(facts["losses"]),
        dev_scores=tuple(facts["dev_scores"]),
        best=facts["best"],
        device=facts["device"],
        dtype=facts["dtype"],
    )


def publish(work: Path, facts: dict[str, Any], into: Path) -> Tuned:
    """Let the finished folder appear at once, in the place of an older one, and clean up."""
    (work / "model" / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if into.exists():
        into.rename(work / "replaced")
    (work / "model").rename(into)
    shutil.rmtree(work, ignore_errors=True)
    tuned = finished(into, facts["inputs"])
    assert tuned is not None  # it has just been written
    return tuned
