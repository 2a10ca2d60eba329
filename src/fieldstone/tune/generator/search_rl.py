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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fieldstone.errors import ModelError
from fieldstone.models import load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.files import weights_fingerprint
from fieldstone.progress import Progress, silent
from fieldstone.prompts import searching_prompt
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning, SearchTuning
from fieldstone.tune.generator.roll_out import Find, Try, roll_out
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

Agree = Callable[[str, str], float]
"""How far an answer (first, empty: a refusal) is the expected one (second, empty: there is none), 0 to 1."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question and the answer that earns the reward; empty where the documents do not answer."""

    question: str
    answer: str


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
