"""What test_together.py runs in one process and in two: some tunings of tiny models, through `everywhere`."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from fieldstone.cli.launched import launched, run
from fieldstone.models import Generator, Prompt
from fieldstone.settings import GeneratorTuning, RetrieverTuning
from fieldstone.tune import together
from fieldstone.tune.generator import Row, tune_generator
from fieldstone.tune.generator.seq2seq import tune_seq2seq
from fieldstone.tune.retriever import Contrast, tune_retriever

ROWS = [Row(Prompt(f"Question: {n}?\nAnswer:", prefix="It opens at six.\n"), f" {n * n}") for n in range(13)]
"""Thirteen in batches of four: the last is too small for two processes."""

LORA = GeneratorTuning(rank=4, alpha=8, epochs=1, batch=4, learning_rate=5e-3, checks=1)


def words(seed: int, count: int) -> str:
    return " ".join(
        random.Random(seed).choices(["harbour", "pilot", "vessel", "radio", "cats", "purr"], k=count)
    )


CONTRASTS = [
    Contrast(
        words(i, 5), words(100 + i % 7, 20), (words(100 + (i + 1) % 7, 20),), f"p{i % 7}",
        {words(100 + k, 20): 0.01 * ((i + k) % 5) for k in range(4)}, (0.5 * (i % 3), -1.0),
    )
    for i in range(21)
]  # fmt: skip
FUSED = RetrieverTuning(loss="fused", epochs=1, batch=5, learning_rate=1e-3)


def score(_: Generator) -> float:
    """Only the first process may ask."""
    assert together.rank() == 0
    return 0.5


def tune_all(bases: Path, into: Path) -> dict[str, Any]:
    """Name of the tuning -> its losses; the tuned folders lie in `into` under the same names."""
    full = LORA.model_copy(update={"method": "full", "learning_rate": 1e-3})
    generators: dict[str, tuple[Any, str, GeneratorTuning]] = {
        "lora": (tune_generator, "llama", LORA),
        "full": (tune_generator, "llama", full),
        "divided": (tune_generator, "llama", full.model_copy(update={"divided": True})),
        "divided-lora": (tune_generator, "llama", LORA.model_copy(update={"divided": True})),
        "packed": (tune_generator, "llama", LORA.model_copy(update={"packing": True})),
        "seq2seq": (tune_seq2seq, "t5", full),
    }
    margin = FUSED.model_copy(update={"loss": "margin"})
    retrievers = {"fused": FUSED, "margin": margin}
    losses = {}
    for name, (tune, base, tuning) in generators.items():
        tuned = together.everywhere(
            tune, str(bases / base), ROWS, into / name, tuning, dev_score=score, threads=1, device="cpu"
        )
        losses[name] = tuned.losses
        assert tuned.scores == ((0, 0.5), (tuned.steps, 0.5))
    for name, how in retrievers.items():
        tuned = together.everywhere(
            tune_retriever, str(bases / "bert"), CONTRASTS, into / name, how, dev_score=score,  # type: ignore
            threads=1, device="cpu", dtype="float32",
        )  # fmt: skip
        losses[name] = tuned.losses
    return losses


if __name__ == "__main__":
    from fieldstone.models import devices

    devices.cpu_features = lambda: frozenset()  # float32, also where the processor multiplies bfloat16

    def command() -> None:
        sys.stdout.write(json.dumps(tune_all(Path(sys.argv[1]), Path(sys.argv[2]))))

    run(command) if launched() else command()
