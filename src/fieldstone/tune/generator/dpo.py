"""Tune a generator on preference pairs: DPO (Rafailov et al. 2023, arXiv 2305.18290) by trl's trainer.

Its loss on a pair is equation 7,

    -log sigmoid(beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected))))

with p the tuned model, p0 the one it started from, and log p the sum over a reply's tokens and its end. trl
would put prompt and reply into tokens as one text, and end each reply with the end of text; a prompt could
then end in another token than it does in answering. So it is given our tokens as they stand.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone.errors import ModelError
from fieldstone.models import load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.files import weights_fingerprint
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning, PreferenceTuning
from fieldstone.tune.generator.preference import Pair, kinds
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

if TYPE_CHECKING:
    from datasets import Dataset

Tokens = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids, as trl names them


def tune_by_preference(
    base: str,
    pairs: Sequence[Pair],
    into: Path,
    tuning: PreferenceTuning,
    adapters: GeneratorTuning,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Tune `base` on `pairs`; `into` becomes a plain transformers folder with the facts in tuned.json.

    Of each step the log holds `loss`, `rewards/accuracies` (the share of pairs whose chosen reply gained
    more on the reference than the rejected) and `rewards/margins` (by how much, times beta). Pairs that do
    not fit into the model's context are left out and counted. Stopped or killed, a call with the same
    arguments goes on: see `tune_adapters`, which also says what is raised.
    """
    need_trl()
    folder = weights_folder(base)
    key = fingerprint(
        "dpo",
        weights_fingerprint(folder),
        tuning.model_dump_json(),
        adapters.rank,
        adapters.alpha,
        seed,
        *pairs,
    )
    if finished := finished_before(into, key):
        shutil.rmtree(into.with_name(f"{into.name}.tuning"), ignore_errors=True)
        return finished
    generator = causal(load_generator(base, device=device, threads=threads), base)
    rows = token_rows(generator, pairs)
    longest = max(
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows
    )
    del generator  # one copy of the weights less while tuning

    def trainer(setting: Setting) -> Any:
        # two replies a pair; those without gradients, of the reference, cost little besides
        at_once, turns = parts(tuning.batch, 2 * longest, setting.tokens)
        more = {
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": turns,
            "gradient_checkpointing": longest > setting.tokens,
        }
        return dpo_trainer(setting, rows, tuning, adapters, more)

    return tune_adapters(
        base,
        into,
        key,
        adapters,
        trainer,
        {"pairs": len(rows), "too_long": len(pairs) - len(rows), "errors": kinds(pairs)},
        section="preference",
        learning_rate=tuning.learning_rate,
        warmup=tuning.warmup,
        steps=math.ceil(len(rows) / tuning.batch) * tuning.epochs,
        seed=seed,
        device=device,
        threads=threads,
        progress=progress,
    )


def token_rows(generator: CausalGenerator, pairs: Sequence[Pair]) -> list[Tokens]:
    """The tokens of the pairs that fit into the context: prompts as in answering, replies with their end.

    Raises ModelError where there are none.
    """
    rows = []
    for pair in pairs:
        prefix, rest = generator.prompt_ids(pair.prompt)
        end = generator.end_ids(pair.prompt)
        row = {
            "prompt_ids": prefix + rest,
            "chosen_ids": generator.completion_ids(pair.chosen) + end,
            "rejected_ids": generator.completion_ids(pair.rejected) + end,
        }
        replies = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        if len(row["prompt_ids"]) + replies <= generator.context_tokens:
            rows.append(row)
    if not rows:
        raise ModelError(
            f"none of {len(pairs)} pairs fits into the {generator.context_tokens} tokens of "
            f"{generator.name}; give pairs, with fewer or shorter passages"
        )
    return rows


def dpo_trainer(
    setting: Setting,
    rows: Sequence[Tokens],
    tuning: PreferenceTuning,
    adapters: GeneratorTuning,
    more: dict[str, Any],
) -> Any:
    """trl's trainer over these tokens; the reference is the same model with its adapters out of the way."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(AtHome, DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset  # these are tokens already

    arguments = DPOConfig(
        **setting.arguments,
        **more,
        beta=tuning.beta,
        loss_type=["sigmoid"],
        max_length=None,  # nothing is cut off; what is too long was left out
    )
    return Trainer(
        model=setting.model,
        args=on_one_device(arguments),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=setting.tokenizer,
        peft_config=low_rank(adapters),
    )
