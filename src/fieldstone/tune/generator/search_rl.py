"""Tune a generator to search by itself, by reinforcement: GRPO over whole tries with searches in them.

The method of Search-R1 (Jin et al. 2025, arXiv 2503.09516) and ReSearch (Chen et al. 2025, arXiv 2503.19470).
The model writes `<search>query</search>`, is given what our search finds, goes on, and ends with
`<answer>…</answer>`; the answer is rewarded. Each question is tried several times, and a try's advantage is

    A = (reward - mean of the group) / (standard deviation of the group + 1e-4)

(GRPO: Shao et al. 2024, arXiv 2402.03300). The loss is the mean over tries of the mean over the tokens that
the model itself wrote,

    -(min(r * A, clip(r, 1 - clip, 1 + clip) * A) - kl * (p0 / p - log(p0 / p) - 1))

with r = p / p_old, p the likelihood of a token under the model, p_old when it was written, p0 under the
untuned model. Tokens that the search put in are read and not learnt. trl's trainer computes it; the tries are
made here, in our tokens.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria

from fieldstone.errors import ModelError
from fieldstone.models import load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.tokens import Tokens
from fieldstone.progress import Progress, silent
from fieldstone.prompts import MOVES, found_passages, parse_move, parse_one_by_one, searching_prompt
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning, SearchTuning
from fieldstone.tune.generator.weights import low_rank, weights_folder
from fieldstone.tune.generator.with_trl import (
    AtHome,
    Setting,
    Tuned,
    causal,
    finished_before,
    need_trl,
    on_one_device,
    parts,
    tune_adapters,
)

Find = Callable[[Sequence[str]], list[list[str]]]
"""The texts of the best passages of each query, best first."""

Agree = Callable[[str, str], float]
"""How far an answer (first, empty: a refusal) is the expected one (second, empty: there is none), 0 to 1."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question and the answer that earns the reward; empty where the documents do not answer."""

    question: str
    answer: str


@dataclass(slots=True)
class Try:
    """One try at a question: its tokens, of which those with a 1 in `own` are the model's.

    `answer` is None until it has answered; `searches` are its queries.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    answer: str | None = None
    done: bool = False

    def add(self, ids: Sequence[int], own: bool) -> None:
        """Go on with these tokens."""
        self.ids += ids
        self.own += [int(own)] * len(ids)


def tune_to_search(
    base: str,
    tasks: Sequence[Task],
    find: Find,
    agree: Agree,
    into: Path,
    tuning: SearchTuning,
    adapters: GeneratorTuning,
    *,
    inputs: str = "",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Tune `base` to answer `tasks` by searching; `into` becomes a plain folder with the facts in tuned.json.

    Of each step the log holds `loss` and `kl`, and of one that began with new tries `reward` (their mean)
    and `searches` (of a try in the mean).
    Stopped or killed, a call with the same arguments goes on: see `tune_adapters`, which also says what is
    raised. What `find` and `agree` do cannot be compared: `inputs` stands for it.
    """
    need_trl()
    folder = weights_folder(base)
    key = fingerprint(
        "search", weights_fingerprint(folder), tuning.model_dump_json(), adapters.rank, adapters.alpha, seed,
        inputs, *tasks,
    )  # fmt: skip
    if finished := finished_before(into, key):
        shutil.rmtree(into.with_name(f"{into.name}.tuning"), ignore_errors=True)
        return finished
    if len(tasks) < 1:
        raise ModelError("there are no questions to learn to search by; give some")
    generator = causal(load_generator(base, device=device, threads=threads), base)
    prompts = [prompt_of(generator, task.question) for task in tasks]
    context = generator.context_tokens
    longest = max(map(len, prompts)) + tuning.searches * tuning.result_tokens
    longest = min(longest + (tuning.searches + 1) * tuning.max_tokens, context)
    if max(map(len, prompts)) + 2 * tuning.max_tokens > context:
        raise ModelError(
            f"a question of {max(map(len, prompts))} tokens leaves no room to search in the {context} tokens "
            f"of {base}; lower search_rl.max_tokens = {tuning.max_tokens}, or give shorter questions"
        )
    del generator  # one copy of the weights less while tuning
    batch = min(tuning.batch, len(tasks))

    def trainer(setting: Setting) -> Any:
        at_once, turns = parts(batch * tuning.group, longest, setting.tokens)
        more = {
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": turns,
            "gradient_checkpointing": longest > 2 * setting.tokens,
        }
        return grpo_trainer(setting, tasks, prompts, find, agree, tuning, adapters, context, more)

    return tune_adapters(
        base,
        into,
        key,
        adapters,
        trainer,
        {"questions": len(tasks), "group": tuning.group},
        section="search_rl",
        learning_rate=tuning.learning_rate,
        warmup=tuning.warmup,
        steps=len(tasks) * tuning.epochs // batch * tuning.updates,
        save_every=tuning.updates,  # in between, a restart would not know the tries
        seed=seed,
        device=device,
        threads=threads,
        progress=progress,
    )


def prompt_of(generator: CausalGenerator, question: str) -> list[int]:
    """The tokens that a try at this question begins with."""
    prefix, rest = generator.prompt_ids(searching_prompt(question))
    return prefix + rest


def roll_out(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    find: Find,
    tuning: SearchTuning,
    context: int,
) -> list[Try]:
    """A try for each prompt: written by `model` at temperature 1, with what `find` gives put in.

    A try ends with its answer, with the end of text, after `tuning.max_tokens` without a tag that closes, or
    with a search too many; without an answer it earns nothing.
    """
    tokens = Tokens(tokenizer)
    tries = [Try(prompt) for prompt in prompts]
    for turn in range(tuning.searches + 1):
        going = [its for its in tries if not its.done]
        if not going:
            break
        pieces = _written(
            model, tokenizer, tokens, [its.prompt + its.ids for its in going], tuning.max_tokens
        )
        asking = []
        for its, piece in zip(going, pieces, strict=True):
            its.add(piece, own=True)
            what, words = parse_move(tokens.decode(piece)) if _closed(tokens.decode(piece)) else ("", "")
            if what == "answer":
                its.answer = parse_one_by_one(words)
            room = context - len(its.prompt) - len(its.ids) - tuning.result_tokens - tuning.max_tokens
            if what == "search" and turn < tuning.searches and room >= 0:
                its.searches.append(words)
                asking.append(its)
            else:
                its.done = True
        found = find([its.searches[-1] for its in asking]) if asking else []
        for its, texts in zip(asking, found, strict=True):
            its.add(_result(tokens, texts, tuning), own=False)
    return tries


def reward(its: Try, expected: str, agree: Agree, form: float) -> float:
    """ReSearch's reward: how far the answer agrees; `form` for one that does not at all; 0 without one.

    An answer without a search earns nothing either: it could not be cited, and answering would refuse it.
    """
    if its.answer is None or not its.searches:
        return 0.0
    return agree(its.answer, expected) or form


def grpo_trainer(
    setting: Setting,
    tasks: Sequence[Task],
    prompts: Sequence[list[int]],
    find: Find,
    agree: Agree,
    tuning: SearchTuning,
    adapters: GeneratorTuning,
    context: int,
    more: dict[str, Any],
) -> Any:
    """trl's trainer with tries of our own; the untuned model is the same with its adapters out of the way."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(AtHome, GRPOTrainer):  # type: ignore[misc]
        pass

    def tried(numbers: Sequence[str], trainer: Any) -> dict[str, Any]:
        torch.manual_seed(int(fingerprint(seed, trainer.state.global_step), 16) >> 1)  # alike after a restart
        model = trainer.accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()  # else nothing is kept between tokens where activations are recomputed
        begun = [prompts[int(number)] for number in numbers]
        tries = roll_out(model, setting.tokenizer, begun, find, tuning, context)
        model.train(training)
        return {
            "prompt_ids": [its.prompt for its in tries],
            "completion_ids": [its.ids for its in tries],
            "env_mask": [its.own for its in tries],
            "logprobs": None,
            "tried": tries,
        }

    def earned(tried: Sequence[Try], number: Sequence[int], log_metric: Any, **_: Any) -> list[float]:
        log_metric("searches", sum(len(its.searches) for its in tried) / len(tried))
        return [
            reward(its, tasks[n].answer, agree, tuning.form) for its, n in zip(tried, number, strict=True)
        ]

    chance, seed = random.Random(setting.arguments["seed"]), setting.arguments["seed"]
    order = [n for _ in range(tuning.epochs) for n in chance.sample(range(len(tasks)), len(tasks))]
    arguments = GRPOConfig(
        **setting.arguments,
        **more,
        num_generations=tuning.group,
        num_iterations=tuning.updates,
        beta=tuning.kl,
        epsilon=tuning.clip,
        loss_type="grpo",  # the mean over each try's tokens, then over the tries
        scale_rewards="group",
        use_bias_correction_kl=False,
        temperature=1.0,
        shuffle_dataset=False,  # it is in order: trl's own would be another one after a restart
    )
    return Trainer(
        model=setting.model,
        args=on_one_device(arguments),
        reward_funcs=[earned],
        train_dataset=Dataset.from_list([{"prompt": str(n), "number": n} for n in order]),
        processing_class=setting.tokenizer,
        rollout_func=tried,
        peft_config=low_rank(adapters),
    )


class _Closes(StoppingCriteria):  # type: ignore[misc]
    """A row is done once a tag closes in what was written after `start`."""

    def __init__(self, tokens: Tokens, start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        closed = [_closed(self._tokens.decode(row)) for row in input_ids[:, self._start :].tolist()]
        return torch.tensor(closed, device=input_ids.device)


def _written(
    model: Any, tokenizer: Any, tokens: Tokens, rows: Sequence[list[int]], limit: int
) -> list[list[int]]:
    """What the model writes after each row at temperature 1, up to a closing tag, its end or `limit`."""
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    ends = _ends(model, tokenizer)
    how = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=limit,
        pad_token_id=pad, eos_token_id=sorted(ends), bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=how,
            stopping_criteria=[_Closes(tokens, width)],
        )  # fmt: skip
    return [_cut(tokens, row, ends) for row in out[:, width:].tolist()]


def _cut(tokens: Tokens, written: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to the one that closes a tag or ends the text, which counts; padding stands behind it."""
    for place, token in enumerate(written, start=1):
        if token in ends or _closed(tokens.decode(written[:place])):
            return list(written[:place])
    return list(written)


def _closed(text: str) -> bool:
    return any(tag in text for tag in MOVES)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text."""
    given = model.generation_config.eos_token_id
    ids = given if isinstance(given, list) else [given]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _result(tokens: Tokens, texts: Sequence[str], tuning: SearchTuning) -> list[int]:
    """What a search puts in, in at most `tuning.result_tokens` tokens: the last passages give way first."""
    for shown in range(len(texts[: tuning.passages]), 0, -1):
        ids = tokens.following(found_passages(texts[:shown]))
        if len(ids) <= tuning.result_tokens:
            return ids
    closing = tokens.following("\n</information>\n")
    whole = tokens.following(found_passages(texts[:1]).removesuffix("\n</information>\n"))
    return whole[: tuning.result_tokens - len(closing)] + closing
