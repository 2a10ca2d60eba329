"""Warm an encoder up on the passages alone: TSDAE (Wang, Reimers and Gurevych 2021, section 3).

Of each passage most words are struck out; a decoder, which shares the encoder's weights and sees nothing but
the vector of what is left, must write the whole passage. So the vector learns what passages of this kind say
before any question is asked. GPL (Wang et al. 2022) gained 1.4 points of nDCG by it on six sets.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

from fieldstone.errors import ModelError
from fieldstone.models.devices import thread_count
from fieldstone.models.huggingface import explained
from fieldstone.progress import Progress
from fieldstone.records import fingerprint
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.checkpoint import resumed, save_checkpoint, writing
from fieldstone.tune.steps import silence

STRUCK = 0.6
"""Share of words that are struck out, the paper's."""

BATCH = 8
"""Passages a step, the paper's; so is the constant learning rate."""

LEARNING_RATE = 3e-5

_STEP = "warm up retriever"
_SAVED_EVERY = 60.0  # seconds between checkpoints


def warm_up(
    folder: Path,
    texts: Sequence[str],
    work: Path,
    tuning: RetrieverTuning,
    *,
    max_tokens: int,
    seed: int,
    device: str,
    threads: int | None,
    progress: Progress,
) -> tuple[Path, tuple[float, ...]]:
    """The encoder in `folder`, warmed up on `texts` and left in `work`; and the loss of each step, in nats.

    Called again after a kill it goes on from its last checkpoint, of which there is one a minute.
    """
    key = fingerprint(str(folder), tuning.warm_up_epochs, max_tokens, seed, *texts)
    torch.set_num_threads(thread_count(threads))
    steps = tuning.warm_up_epochs * math.ceil(len(texts) / BATCH)
    with silence(), torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)  # the decoder's attention to the vector begins by chance
        with explained(str(folder), "encoder with a decoder beside it"):
            model = SentenceTransformer(
                str(folder), device=device, local_files_only=True, model_kwargs={"dtype": torch.float32}
            )
            loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True).to(device)
        model.max_seq_length = max_tokens
        loss.train()
        for module in loss.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = tuning.dropout
        learnt = dict(loss.named_parameters())
        optimizer = torch.optim.AdamW(learnt.values(), lr=LEARNING_RATE, weight_decay=0.0)
        history = resumed(work, key, learnt, optimizer)
        saved = time.monotonic()
        progress(_STEP, max(history.step, 0), steps, "steps")
        for step in range(max(history.step, 0) + 1, steps + 1):
            torch.manual_seed(int(fingerprint(seed, step), 16) >> 1)
            missed = _missed(loss, _batch(texts, step, seed), seed)
            optimizer.zero_grad()
            missed.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
            optimizer.step()
            if not math.isfinite(missed.item()):
                raise ModelError(
                    f"the loss became {missed.item()}; set retriever.warm_up=none and start again"
                )
            history.losses.append(missed.item())
            history.step = step
            if step == steps or time.monotonic() - saved > _SAVED_EVERY:
                saved = time.monotonic()
                with writing(work):
                    save_checkpoint(work, key, history, learnt, optimizer.state_dict())
            progress(_STEP, step, steps, "steps")
        with writing(work):
            model.save_pretrained(str(work / "model"), create_model_card=False)
    return work / "model", tuple(history.losses)


def damaged(text: str, chance: random.Random) -> str:
    """The text without most of its words, in their order; one is left at least."""
    words = text.split()
    left = [word for word in words if chance.random() >= STRUCK]
    return " ".join(left or words[:1])


def _batch(texts: Sequence[str], step: int, seed: int) -> list[str]:
    """The texts of a step: each once an epoch, in an order of its own."""
    an_epoch = math.ceil(len(texts) / BATCH)
    epoch, place = divmod(step - 1, an_epoch)
    order = random.Random(f"{seed} {epoch}").sample(range(len(texts)), len(texts))
    return [texts[index] for index in order[place * BATCH : (place + 1) * BATCH]]


def _missed(loss: Any, texts: Sequence[str], seed: int) -> torch.Tensor:
    """The mean negative log-probability of a token of the texts, given their damaged vectors."""
    chance = random.Random(fingerprint(seed, *texts))
    encoder = loss.encoder
    pairs = [
        {
            name: its.to(encoder.device) if isinstance(its, torch.Tensor) else its
            for name, its in encoder.preprocess(list(side)).items()
        }
        for side in ([damaged(text, chance) for text in texts], texts)
    ]
    missed: torch.Tensor = loss(pairs, torch.empty(0))
    return missed
