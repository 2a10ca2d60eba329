"""How fast tuning a generator is, beside fed-rag's RALT on the same questions, passages and answers.

Both learn low-rank adapters of the same rank, by batches and rates of the same size, once over the rows; they
take turns, and training alone is timed. fed-rag's trainer takes its own template, in which nearly all tokens
are learnt, not the answer's alone. Then each says how likely it finds the answers to questions of other
articles, behind the prompt that it has learnt: nats a token.

fed-rag lives in an environment of its own, whose Python is named with --python:

    python -m venv FEDRAG && FEDRAG/bin/pip install 'fed-rag[huggingface]'
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fieldstone.models import Prompt, load_generator
from fieldstone.models.embedded import smollm2_folder
from fieldstone.settings import GeneratorTuning
from machine import begin, spread, table
from tune_speed import Case, cases, lora, nats


def main() -> None:
    """Tune in turns, print rates, the ratio and what was learnt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("squad", type=Path, help="folder with squad_train_*.jsonl")
    parser.add_argument("--python", required=True, help="that of the environment with fed-rag")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=160, help="rows of other articles")
    parser.add_argument("--rounds", type=int, default=3)
    given = begin(parser)
    learnt, held = cases(given.squad, given.rows, given.held_out)
    rates: dict[str, list[float]] = {"fed-rag": [], "ours": []}
    reached: dict[str, list[float]] = {"fed-rag": [], "ours": []}
    for seed in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            into = Path(folder) / "theirs"
            seconds, template = fed_rag(given.python, learnt, into, seed, given.threads)
            rates["fed-rag"].append(len(learnt) / seconds)
            reached["fed-rag"].append(nats_behind(template, str(into), held, given.threads))
            into = Path(folder) / "ours"
            rates["ours"].append(len(learnt) / lora(False, learnt, into, seed, given.threads))
            reached["ours"].append(nats(str(into), held, given.threads))
    rows = [[name, spread(rates[name], 2), spread(reached[name], 4)] for name in rates]
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["fed-rag"], strict=True)]
    rows.append(["ours / fed-rag", spread(ratios, 2), ""])
    table([f"{len(learnt)} rows, {given.rounds} rounds", "rows a second", "nats a token, held out"], rows)


def fed_rag(python: str, learnt: Sequence[Case], into: Path, seed: int, threads: int) -> tuple[float, str]:
    """The seconds of its training, and its template."""
    how = GeneratorTuning()
    asked = {
        "base": str(smollm2_folder()),
        "into": str(into),
        "seed": seed,
        "threads": threads,
        "rows": [{"query": its.question, "response": its.answer, "passage": its.text} for its in learnt],
        "adapters": {"r": how.rank, "lora_alpha": how.alpha, "target_modules": "all-linear"},
        "arguments": {
            "per_device_train_batch_size": how.batch,
            "learning_rate": how.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": how.warmup,
        },
    }
    script = Path(__file__).with_name("fedrag_tune.py")
    done = subprocess.run(
        [python, str(script)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{python} {script} failed:\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["template"]


def nats_behind(template: str, name: str, held: Sequence[Case], threads: int) -> float:
    """Mean negative log-likelihood a token of the held-out answers and the ends of their lines."""
    before = template.partition("{response}")[0]
    prompts = [Prompt(text=before.format(query=its.question, context=its.text)) for its in held]
    scores = load_generator(name, threads=threads).score(prompts, [f"{its.answer}\n" for its in held])
    return -sum(its.logprob for its in scores) / sum(its.tokens for its in scores)


if __name__ == "__main__":
    main()
