"""Tune a causal generator on prompts and what should stand after them: LoRA, merged into plain weights.

Low-rank adapters on all linear layers (Hu et al. 2021) learn the completions and what ends them; the
prompts are read but not learnt. What every step does follows from the rows, the settings and the seed
alone, so a run that was stopped goes on from its last checkpoint and ends as if it had not been.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from fieldstone.errors import ModelError, WorkspaceError
from fieldstone.models import BACKENDS, Generator, Options, Prompt, load_generator
from fieldstone.models.batches import by_length
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.devices import DTYPES, pick_device, pick_dtype
from fieldstone.models.embedded import smollm2_folder
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import explained, quiet, read_config, read_model, read_tokenizer, resolve
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning
from fieldstone.tune.checkpoint import resumed, save_checkpoint, writing

_STEP = "tune generator"
_ACTIVATIONS = 1.5e9  # bytes on a CPU: with it, the 135M model peaks below 3 GB
_BYTES = 180  # that a token leaves for the way back, a layer and unit of width; bf16 145, float32 200
_SAVED_EVERY = 60.0  # seconds between checkpoints where the dev scores are farther apart


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, exactly as answering writes it, and what the model should write after it."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned generator and how it came about.

    `losses` holds the mean negative log-probability of a learnt token, in nats, a step. `scores` holds
    (step, dev score), step 0 being the untuned model; `best_step` is the one that `folder` holds, never 0.
    `too_long` rows did not fit into the model's context and were left out. `seconds` is all the time spent,
    dev scores and stopped runs included; `tokens_per_second` counts the tokens read, in training alone.
    """

    folder: Path
    steps: int
    seconds: float
    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    best_step: int
    rows: int
    too_long: int
    trainable: int
    tokens_per_second: float
    device: str
    dtype: str


def tune_generator(
    base: str,
    rows: Sequence[Row],
    into: Path,
    tuning: GeneratorTuning,
    *,
    dev_score: Callable[[Generator], float],
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Tune `base` on `rows`; `into` becomes a plain transformers folder with the facts in tuned.json.

    `dev_score` (higher is better) is asked about the untuned model and `tuning.checks` times an epoch; the
    best tuned weights are kept even if the untuned model beats them, for the gate decides about that. Until
    the end all lies in a folder beside `into` (`NAME.tuning`), then `into` appears in one rename. Called
    again with the same base, rows, settings and seed, it goes on where it stopped or returns at once;
    `dev_score` cannot be compared, so delete both folders when it has changed.

    Raises ModelError for a base that cannot be tuned or rows that cannot be learnt, WorkspaceError for a
    folder that cannot be written.
    """
    began = time.perf_counter()
    folder = _folder(base)
    key = fingerprint(weights_fingerprint(folder), tuning.model_dump_json(), seed, *rows)
    work = into.with_name(f"{into.name}.tuning")
    if finished := _finished(into, key):
        shutil.rmtree(work, ignore_errors=True)
        return finished
    texts = _texts(load_generator(base, device=device, threads=threads), rows)
    lengths = [len(prompt) + len(learnt) for prompt, learnt in texts]
    an_epoch = math.ceil(len(texts) / tuning.batch)
    steps = an_epoch * tuning.epochs
    checks = {math.ceil(n * an_epoch / tuning.checks) for n in range(tuning.checks * tuning.epochs + 1)}
    batches = [
        [],
        *(batch for epoch in range(tuning.epochs) for batch in _epoch(lengths, tuning, seed, epoch)),
    ]
    where = pick_device(device).name
    dtype = "bfloat16" if pick_dtype(where) == "bfloat16" else "float32"  # float16 gradients would underflow
    with torch.random.fork_rng([where] if where.startswith("cuda") else []):
        torch.manual_seed(seed)
        options = Options(device=where, threads=threads, dtype=dtype)
        model = _adapted(base, folder, tuning, options).train()
        budget = _micro_batch(model.config.get_text_config(), where)
        if max(lengths) > 2 * budget:
            _recompute(model)
        adapter = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        optimizer = torch.optim.AdamW(adapter.values(), weight_decay=0.0)
        history = resumed(work, key, adapter, optimizer)
        before, saved = history.seconds, began
        progress(_STEP, max(history.step, 0), steps, "steps")
        for step in range(history.step + 1, steps + 1):
            if step:
                started = time.perf_counter()
                optimizer.param_groups[0]["lr"] = tuning.learning_rate * _rate(step, steps, tuning.warmup)
                torch.manual_seed(int(fingerprint(seed, step), 16) >> 1)  # dropout, alike after a restart
                loss = _learn(model, [texts[i] for i in batches[step]], budget, dtype)
                torch.nn.utils.clip_grad_norm_(adapter.values(), 1.0)
                optimizer.step()
                history.losses.append(loss)
                history.tokens += sum(lengths[i] for i in batches[step])
                history.training += time.perf_counter() - started
            if step in checks:
                name = base
                if step:
                    name = str(work / f"step-{step}")
                    with writing(into):
                        _merge(base, folder, tuning, threads, adapter, Path(name))
                score = dev_score(load_generator(name, device=device, threads=threads))
                history.scores.append((step, float(score)))
            history.step, now = step, time.perf_counter()
            if step in checks or now - saved > _SAVED_EVERY:
                saved, history.seconds = now, before + now - began
                with writing(into):
                    save_checkpoint(work, key, history, adapter, optimizer)
            if step:
                progress(_STEP, step, steps, "steps")
    tuned = Tuned(
        folder=into,
        steps=steps,
        seconds=round(history.seconds, 3),
        losses=tuple(history.losses),
        scores=tuple(history.scores),
        best_step=history.best,
        rows=len(texts),
        too_long=len(rows) - len(texts),
        trainable=sum(weights.numel() for weights in adapter.values()),
        tokens_per_second=round(history.tokens / history.training, 1),
        device=where,
        dtype=dtype,
    )
    with writing(into):
        _finish(work, key, tuned)
    return tuned


def _folder(base: str) -> Path:
    """Where the weights of the base lie."""
    if base == "embedded:smollm2":
        return smollm2_folder()
    if base.partition(":")[0] in BACKENDS:
        raise ModelError(
            f"{base} cannot be tuned here; give embedded:smollm2, a folder or a hub id, or say "
            "--recipe guide to tune nothing"
        )
    return resolve(base)


def _texts(generator: Generator, rows: Sequence[Row]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each row's prompt and those to learn after it, for the rows that fit into the context."""
    if not isinstance(generator, CausalGenerator):
        raise ModelError(f"{generator.name} is no causal model, and no other is tuned; give a causal one")
    texts = []
    for row in rows:
        prefix, rest = generator.prompt_ids(row.prompt)
        learnt = generator.completion_ids(row.completion) + generator.end_ids(row.prompt)
        if len(prefix) + len(rest) + len(learnt) <= generator.context_tokens:
            texts.append((prefix + rest, learnt))
    if not texts:
        raise ModelError(
            f"none of {len(rows)} rows fits into the {generator.context_tokens} tokens of {generator.name}; "
            "give rows, with fewer or shorter passages"
        )
    return texts


def _epoch(lengths: Sequence[int], tuning: GeneratorTuning, seed: int, epoch: int) -> list[list[int]]:
    """The rows in batches of like length, the batches in random order."""
    chance = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    order.sort(key=lambda i: lengths[i] + chance.uniform(-0.1, 0.1) * lengths[i])  # new company each epoch
    batches = [order[start : start + tuning.batch] for start in range(0, len(order), tuning.batch)]
    chance.shuffle(batches)
    return batches


def _rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate's share at `step` (from 1): a linear rise, then a cosine down to almost nothing."""
    rising = math.ceil(warmup * steps)
    if step <= rising:
        return step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - rising) / (steps - rising)))


def _adapted(base: str, folder: Path, tuning: GeneratorTuning, options: Options) -> Any:
    """The base with fresh adapters, which are in float32 whatever the base is in."""
    loaded = read_model(base, folder, AutoModelForCausalLM, options)
    with explained(base, "adapters on its linear layers"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        return get_peft_model(loaded.model, low_rank(tuning))


def low_rank(tuning: GeneratorTuning) -> LoraConfig:
    """Adapters of that rank on every linear layer but the last, which gives the vocabulary's logits."""
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _recompute(model: Any) -> None:
    """Lets it keep a layer's input alone and compute the rest again on the way back: slower, far smaller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name came in the middle of transformers 5
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _micro_batch(config: Any, device: str) -> int:
    """How many tokens are read at once, by the size of the model and the memory there is."""
    room = torch.cuda.mem_get_info(device)[0] / 2 if device.startswith("cuda") else _ACTIVATIONS
    return max(1, int(room / (_BYTES * config.num_hidden_layers * config.hidden_size)))


def _learn(model: Any, batch: Sequence[tuple[list[int], list[int]]], budget: int, dtype: str) -> float:
    """Puts the gradients of a batch's mean loss into place, read in parts of `budget` tokens; the loss.

    In bfloat16 the products of the float32 adapters are computed in it too (autocast).
    """
    model.zero_grad()
    learnt = sum(len(after) for _, after in batch)
    loss = 0.0
    for part in by_length([len(before) + len(after) for before, after in batch], budget=budget):
        ids, keep, labels = (tensor.to(model.device) for tensor in _tensors([batch[i] for i in part]))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        summed = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        torch.autograd.backward(summed / learnt)
        loss += summed.item() / learnt
    if not math.isfinite(loss):
        raise ModelError(f"the loss became {loss}; set a lower generator.learning_rate and start again")
    return loss


def _tensors(
    batch: Sequence[tuple[list[int], list[int]]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids (rows, width), the columns whose logits are wanted, the labels there (-100: none).

    Padding is to the right, where causality keeps it from being seen, so no mask is needed.
    """
    width = max(len(before) + len(after) for before, after in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for i, (before, after) in enumerate(batch):
        ids[i, : len(before) + len(after)] = torch.tensor(before + after)
        start = len(before) - 1  # the token at t is predicted at t - 1
        labels[i, start : start + len(after)] = torch.tensor(after)
    keep = (labels != -100).any(0).nonzero()[:, 0]
    return ids, keep, labels[:, keep]


def _merge(
    base: str,
    folder: Path,
    tuning: GeneratorTuning,
    threads: int | None,
    adapter: Mapping[str, torch.Tensor],
    target: Path,
) -> None:
    """Writes the base with the adapter added to its weights, in the number type that the base is kept in.

    The sum is taken on the weights as they are kept, not on those in training, which may be rounded.
    """
    kept = str(read_config(base, folder).dtype).removeprefix("torch.")
    options = Options(device="cpu", threads=threads, dtype=kept if kept in DTYPES else "float32")
    model = _adapted(base, folder, tuning, options)
    model.load_state_dict({name: weights.detach().cpu() for name, weights in adapter.items()}, strict=False)
    shutil.rmtree(target, ignore_errors=True)
    with quiet():
        model.merge_and_unload().save_pretrained(target)
        read_tokenizer(base, folder).save_pretrained(target)


def _finished(into: Path, key: str) -> Tuned | None:
    """What an earlier call left, if it was this same run."""
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return None
    try:
        facts = json.loads((into / "tuned.json").read_text(encoding="utf-8"))
        if facts.pop("key") != key:
            return None
        lists = {"losses": tuple(facts["losses"]), "scores": tuple((n, s) for n, s in facts["scores"])}
        return Tuned(**{**facts, **lists, "folder": into})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{into} is there and is no generator tuned here ({error}); delete it, or name a new folder"
        ) from error


def _finish(work: Path, key: str, tuned: Tuned) -> None:
    """Puts the best merged folder into its place, with the facts; whatever was there goes."""
    best, into = work / f"step-{tuned.best_step}", tuned.folder
    facts = {"key": key, **asdict(tuned)}
    del facts["folder"]
    (best / "tuned.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if into.exists():
        into.rename(work / "replaced")
    best.rename(into)
    shutil.rmtree(work, ignore_errors=True)
