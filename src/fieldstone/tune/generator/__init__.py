"""Tune a causal generator on prompts and what should stand after them, into plain weights.

Low-rank adapters, or all weights (`weights`), learn the completions and what ends them; the prompts are read
but not learnt (`loss`). What every step does follows from the rows, the settings and the seed alone, so a
run that was stopped goes on from its last checkpoint and ends as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fieldstone.errors import ModelError
from fieldstone.models import Generator, Options, Prompt, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.devices import pick_device, pick_dtype
from fieldstone.models.files import weights_fingerprint
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning
from fieldstone.tune import together
from fieldstone.tune.divided import divide
from fieldstone.tune.generator.loop import run_steps
from fieldstone.tune.generator.loss import Text, check_packing, learn
from fieldstone.tune.generator.tuned import Tuned, finished_before
from fieldstone.tune.generator.weights import (
    ADAPTERS,
    SHORT,
    attend_in_steps,
    check_method,
    merge,
    micro_batch,
    prepared,
    put_adapters,
    recompute,
    weights_folder,
    write_adapters,
)
from fieldstone.tune.pull import distance_from_here


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, exactly as answering writes it, and what the model should write after it."""

    prompt: Prompt
    completion: str


def tune_generator(
    base: str,
    rows: Sequence[Row],
    into: Path,
    tuning: GeneratorTuning,
    *,
    dev_score: Callable[[Generator], float] | None,
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Tune `base` on `rows`; `into` becomes a plain transformers folder with the facts in tuned.json.

    `dev_score` (higher is better) is asked about the untuned model and `tuning.checks` times an epoch; the
    best tuned weights are kept even if the untuned model beats them, for the gate decides about that; without
    it, the last are. `start` is a file of adapters to go on from, such as `adapters.safetensors`, which each
    tuned folder holds beside the weights that they were merged into (lora, qlora).

    Until the end all lies in a folder beside `into` (`NAME.tuning`), then `into` appears in one rename.
    Called again with the same base, rows, settings and seed, it goes on where it stopped or returns at once;
    `dev_score` cannot be compared, so delete both folders when it has changed.

    Raises ModelError for a base that cannot be tuned or rows that cannot be learnt, WorkspaceError for a
    folder that cannot be written.
    """
    began = time.perf_counter()
    where = pick_device(device).name
    folder = weights_folder(base)
    begun = (start.read_bytes(),) if start else ()
    key = fingerprint(weights_fingerprint(folder), tuning.model_dump_json(), seed, *begun, *rows)
    if finished := together.first_only(lambda: finished_before(into, key)):
        return finished
    check_method(tuning.method, where)
    texts, starts = _texts(load_generator(base, device=device, threads=threads), rows)
    lengths = [len(prompt) + len(learnt) for prompt, learnt in texts]
    dtype = "bfloat16" if pick_dtype(where) == "bfloat16" else "float32"  # float16 gradients would underflow
    with torch.random.fork_rng([where] if where.startswith("cuda") else []):
        torch.manual_seed(seed)
        options = Options(device=where, threads=threads, dtype=dtype)
        model = prepared(base, folder, tuning, options).train()
        learnt = _learnt(model)
        if start:
            put_adapters(learnt, start)
        trained = sum(weights.numel() for weights in learnt.values())
        budget = micro_batch(model.config.get_text_config(), where, trained)
        if where == "cpu" and max(lengths) <= SHORT:
            attend_in_steps(model)
        if tuning.packing:
            check_packing(base, model, texts)
        if tuning.recompute == "on" or (tuning.recompute == "auto" and max(lengths) > 2 * budget):
            recompute(model)
        if tuning.divided and together.size() > 1:
            divide(model)
            learnt = _learnt(model)
        away = distance_from_here(model) if tuning.start_pull else None

        def learn_step(step: Sequence[int]) -> float:
            loss = learn(model, [texts[i] for i in step], budget, dtype, packing=tuning.packing)
            if away:
                torch.autograd.backward(tuning.start_pull / 2 * away())
            return loss

        def write(its: Mapping[str, torch.Tensor], target: Path) -> None:
            merge(base, folder, tuning, threads, its, target)
            if tuning.method != "full":
                write_adapters(its, target / ADAPTERS)

        def score(name: str) -> float:
            assert dev_score is not None
            return dev_score(load_generator(name, device=device, threads=threads))

        return run_steps(
            learn_step, write=write, dev_score=score if dev_score else None,
            base=base, into=into, key=key, learnt=learnt, tuning=tuning, lengths=lengths,
            starts=starts if tuning.packing else (), too_long=len(rows) - len(texts), device=where,
            dtype=dtype, seed=seed, began=began, progress=progress,
        )  # fmt: skip


def _learnt(model: Any) -> dict[str, torch.Tensor]:
    return {name: weights for name, weights in model.named_parameters() if weights.requires_grad}


def _texts(generator: Generator, rows: Sequence[Row]) -> tuple[list[Text], list[str]]:
    """The tokens of each row's prompt and those to learn after it, and what the prompt starts with.

    Rows that do not fit into the context are left out.
    """
    if not isinstance(generator, CausalGenerator):
        raise ModelError(f"{generator.name} is no causal model; tune an encoder-decoder with tune_seq2seq")
    texts, starts = [], []
    for row in rows:
        prefix, rest = generator.prompt_ids(row.prompt)
        learnt = generator.completion_ids(row.completion) + generator.end_ids(row.prompt)
        if len(prefix) + len(rest) + len(learnt) <= generator.context_tokens:
            texts.append((prefix + rest, learnt))
            starts.append(row.prompt.prefix)
    if not texts:
        raise ModelError(
            f"none of {len(rows)} rows fits into the {generator.context_tokens} tokens of {generator.name}; "
            "give rows, with fewer or shorter passages"
        )
    return texts, starts
