"""How fast tuning is, beside the defaults of the libraries that others tune with, on the same examples.

The generator: a passage, a question and its answer a row, learnt once by low-rank adapters, against trl's
`SFTTrainer`. The encoder: questions and their passages against those of others, once, against
sentence-transformers' trainer with `MultipleNegativesRankingLoss`. Ranks, batches and rates are ours on both
sides; all else is each library's default. They take turns, and training alone is timed. Then both are asked
the same on rows of other articles: nats a token of the answers, MRR of the questions' passages.

    python bench/tune_speed.py $FIELDSTONE_DATA/squad --part generator
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fieldstone.models import load_encoder, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.embedded import minilm_folder, smollm2_folder
from fieldstone.prompts import one_by_one_prompt
from fieldstone.records import with_context
from fieldstone.settings import GeneratorTuning, RetrieverTuning
from fieldstone.tune.generator import Row, tune_generator
from fieldstone.tune.generator.weights import low_rank
from fieldstone.tune.retriever import Contrast, tune_retriever
from machine import begin, spread, table


@dataclass(frozen=True, slots=True)
class Case:
    """A human question, its answer and its passage."""

    question: str
    answer: str
    passage_id: str
    text: str


def main() -> None:
    """Tune in turns, print rates, ratios and what was learnt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("squad", type=Path, help="folder with squad_train_*.jsonl")
    parser.add_argument("--part", choices=PARTS, default="generator")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--held-out", type=int, default=160, help="rows of other articles")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = begin(parser)
    learnt, held = cases(arguments.squad, arguments.rows, arguments.held_out)
    part, threads = PARTS[arguments.part], arguments.threads
    rates: dict[str, list[float]] = {name: [] for name in part.sides}
    reached: dict[str, list[float]] = {name: [] for name in part.sides}
    for seed in range(arguments.rounds):
        for name, tune in part.sides.items():
            with tempfile.TemporaryDirectory() as folder:
                into = Path(folder) / "tuned"
                rates[name].append(len(learnt) / tune(learnt, into, seed, threads))
                reached[name].append(part.judge(str(into), held, threads))
    rows = [["untuned", "", f"{part.judge(part.base, held, threads):.4f}"]]
    rows += [[name, spread(rates[name], 2), spread(reached[name], 4)] for name in part.sides]
    theirs, *ours = part.sides
    for name in ours:
        pairs = [zip(its[name], its[theirs], strict=True) for its in (rates, reached)]
        rows.append([f"{name} / {theirs}", *(spread([a / b for a, b in its], 3) for its in pairs)])
    table([f"{len(learnt)} rows, {arguments.rounds} rounds", "rows a second", part.measure], rows)


def cases(squad: Path, rows: int, held: int) -> tuple[list[Case], list[Case]]:
    """Rows to learn from two articles of three, and others about the third; whole passages of questions."""
    passages = [json.loads(line) for line in (squad / "squad_train_passages.jsonl").open()]
    title = {p["id"]: p["title"] for p in passages}
    text = {p["id"]: with_context(p["text"], p["title"], ()) for p in passages}
    apart = set(sorted(set(title.values()))[::3])
    asked: dict[str, list[Case]] = {}
    for line in (squad / "squad_train_slice.jsonl").open():
        q = json.loads(line)
        case = Case(q["question"], q["answers"][0], q["passage_id"], text[q["passage_id"]])
        asked.setdefault(case.passage_id, []).append(case)
    order = sorted(asked)
    random.Random(0).shuffle(order)
    found = [
        [case for id_ in order if (title[id_] in apart) == held_out for case in asked[id_][:A_PASSAGE]]
        for held_out in (False, True)
    ]
    return found[0][:rows], found[1][:held]


# -- the generator


def lora(packing: bool, learnt: Sequence[Case], into: Path, seed: int, threads: int) -> float:
    """Ours; the seconds of its training."""
    rows = [Row(one_by_one_prompt(its.text, its.question), f" {its.answer}") for its in learnt]
    how = GeneratorTuning(epochs=1, checks=1, packing=packing)
    base = PARTS["generator"].base
    tuned = tune_generator(base, rows, into, how, dev_score=lambda _: 0.0, seed=seed, threads=threads)
    return sum(len(before) + len(after) for before, after in _ids(learnt, threads)) / tuned.tokens_per_second


def _ids(learnt: Sequence[Case], threads: int) -> list[tuple[list[int], list[int]]]:
    """The tokens of each row: what is read, and what is learnt after it, the end of its line too."""
    generator = load_generator(PARTS["generator"].base, threads=threads)
    assert isinstance(generator, CausalGenerator)
    prompts = [one_by_one_prompt(its.text, its.question) for its in learnt]
    read = [before + after for before, after in map(generator.prompt_ids, prompts)]
    return [
        (ids, generator.completion_ids(f" {its.answer}") + generator.end_ids(prompt))
        for ids, prompt, its in zip(read, prompts, learnt, strict=True)
    ]


def trl(learnt: Sequence[Case], into: Path, seed: int, threads: int) -> float:
    """The same tokens through trl, which would have the end of text learnt as well if it made them."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    how, folder = GeneratorTuning(), smollm2_folder()
    rows = [
        {"input_ids": before + after, "labels": [-100] * len(before) + after}
        for before, after in _ids(learnt, threads)
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer: Any = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=SFTConfig(
            output_dir=str(into.with_name("trl")), num_train_epochs=1, seed=seed, use_cpu=True,
            learning_rate=how.learning_rate, lr_scheduler_type="cosine", warmup_steps=how.warmup,
            save_strategy="no", report_to="none", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=low_rank(how),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.model.merge_and_unload().save_pretrained(into)
    tokenizer.save_pretrained(into)
    return seconds


def nats(name: str, held: Sequence[Case], threads: int) -> float:
    """Mean negative log-likelihood a token of the held-out answers and the ends of their lines."""
    prompts = [one_by_one_prompt(its.text, its.question) for its in held]
    scores = load_generator(name, threads=threads).score(prompts, [f" {its.answer}\n" for its in held])
    return -sum(its.logprob for its in scores) / sum(its.tokens for its in scores)


# -- the encoder


def contrastive(learnt: Sequence[Case], into: Path, seed: int, threads: int) -> float:
    """Ours; the seconds of its training."""
    data = [Contrast(its.question, its.text, (), its.passage_id) for its in learnt]
    return tune_retriever(
        PARTS["encoder"].base, data, into, ENCODER_TUNING, seed=seed, threads=threads
    ).seconds


def sentence_transformers(learnt: Sequence[Case], into: Path, seed: int, threads: int) -> float:
    """The same pairs through the library's own trainer."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    torch.set_num_threads(threads)
    model, how = SentenceTransformer(str(minilm_folder()), device="cpu"), ENCODER_TUNING
    trainer: Any = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(into.with_name("st")), num_train_epochs=1, seed=seed, use_cpu=True,
            per_device_train_batch_size=how.batch, learning_rate=how.learning_rate, warmup_steps=how.warmup,
            save_strategy="no", report_to="none", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(
            {"anchor": [its.question for its in learnt], "positive": [its.text for its in learnt]}
        ),
        loss=MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    model.save_pretrained(str(into), create_model_card=False)
    return seconds


def reciprocal_rank(name: str, held: Sequence[Case], threads: int) -> float:
    """Of each held-out question's passage among all of theirs, the mean."""
    encoder = load_encoder(name, threads=threads)
    texts = sorted({its.text for its in held})
    scores = encoder.encode_queries([its.question for its in held]) @ encoder.encode_passages(texts).T
    own = scores[range(len(held)), [texts.index(its.text) for its in held]]
    return float((1 / (1 + (scores > own[:, None]).sum(1))).mean())


@dataclass(frozen=True, slots=True)
class Part:
    """What is tuned, by whom (the peer first), and how what was learnt is judged."""

    base: str
    sides: Mapping[str, Callable[[Sequence[Case], Path, int, int], float]]
    judge: Callable[[str, Sequence[Case], int], float]
    measure: str


A_PASSAGE = 3
"""Questions about a passage, at most: about as many as are kept of those written about one."""

ENCODER_TUNING = RetrieverTuning(loss="contrastive", epochs=1, negatives=0)

PARTS = {
    "generator": Part(
        "embedded:smollm2",
        {"trl": trl, "ours": partial(lora, False), "ours, packed": partial(lora, True)},
        nats,
        "nats a token, held out",
    ),
    "encoder": Part(
        "embedded:minilm",
        {"sentence-transformers": sentence_transformers, "ours": contrastive},
        reciprocal_rank,
        "MRR, held out",
    ),
}


if __name__ == "__main__":
    main()
