"""Generation on the CPU: tokens a second of ours and of transformers' `generate` in float32, in turns.

The same weights, prompts and greedy choice. Prompts are pieces of the documents, completed. Counted are the
tokens up to the end of text; nothing is kept of earlier prompts. Goal: at least 3 times as fast.

With --questions, both also answer questions about their gold passages, up to the end of the line, eight at a
time by transformers: rates, F1 of each and the paired difference. Goal: within 1 point.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.questions import read_questions
from fieldstone.evaluate.statistics.bootstrap import paired_difference
from fieldstone.models import Prompt, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.embedded import smollm2_folder
from fieldstone.prompts import one_by_one_prompt, parse_one_by_one
from machine import begin, data, spread, table


def main() -> None:
    """Time both in turns, print the ratios, how far the texts agree, and F1 where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "documents", "documents/squad8_txt")
    parser.add_argument("--generator", default="embedded:smollm2", help="or a folder that transformers saved")
    parser.add_argument("--rows", type=int, default=8, help="prompts at a time (default 8)")
    parser.add_argument("--prompt", type=int, default=300, help="tokens of a prompt (default 300)")
    parser.add_argument("--new", type=int, default=64, help="tokens to write (default 64)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--questions", type=Path, help="JSON lines with evidence, as squad8_questions.jsonl")
    parser.add_argument("--ask", type=int, default=300, help="questions of them (default 300)")
    arguments = begin(parser)
    folder = smollm2_folder() if arguments.generator == "embedded:smollm2" else Path(arguments.generator)
    ours = load_generator(str(folder), device="cpu", threads=arguments.threads, engine="lean")
    assert isinstance(ours, CausalGenerator)
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = _prompts(ours, arguments.documents, arguments.rows, arguments.prompt)
    ids = [ours.prompt_ids(prompt)[1] for prompt in prompts]
    systems: dict[str, Callable[[], list[str]]] = {
        "transformers, float32": lambda: _theirs(peer, ours, ids, arguments.new),
        "ours": lambda: _ours(ours, prompts, arguments.new),
    }
    texts = {name: write() for name, write in systems.items()}  # one round warms up
    wall: dict[str, list[float]] = {name: [] for name in systems}
    cpu: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(arguments.runs):
        for name, write in systems.items():
            began, worked = time.perf_counter(), time.process_time()
            written = write()
            seconds = time.perf_counter() - began, time.process_time() - worked
            tokens = sum(ours.count_tokens(written))
            wall[name].append(tokens / seconds[0])
            cpu[name].append(tokens / seconds[1])
    a, b = systems
    table(
        [f"{arguments.rows} x ({arguments.prompt} + {arguments.new})", "tokens/s", "tokens/CPU-second"],
        [
            *[[name, spread(wall[name]), spread(cpu[name])] for name in systems],
            ["ratio", *(spread([y / x for x, y in zip(t[a], t[b], strict=True)], 2) for t in (wall, cpu))],
        ],
    )
    _agreement(ours, prompts, texts[a], texts[b])
    if arguments.questions:
        _quality(ours, peer, arguments.questions, arguments.ask)


def _prompts(ours: CausalGenerator, documents: Path, rows: int, tokens: int) -> list[Prompt]:
    """The beginnings of so many documents, each of so many tokens."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(documents.glob("*.txt"))]
    made = []
    for i in range(rows):
        text = texts[i % len(texts)][8000 * (i // len(texts)) :][: tokens * 8]
        low, high = 0, len(text)
        while low < high:  # the longest start of the text with so many tokens
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if ours.count_tokens([text[:middle]])[0] <= tokens else (low, middle - 1)
            )
        made.append(Prompt(text=text[:low]))
    return made


def _ours(ours: CausalGenerator, prompts: list[Prompt], new: int) -> list[str]:
    ours.forget()
    return [completion.text for completion in ours.generate(prompts, max_tokens=new)]


@torch.inference_mode()
def _theirs(
    peer: torch.nn.Module, ours: CausalGenerator, rows: list[list[int]], new: int, **until: Any
) -> list[str]:
    """transformers' generate on the same ids, padded to the left; `until` is for it."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    out = peer.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **until
    )
    ends = peer.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    written = []
    for row in out[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), len(row))
        written.append(ours._tokens.decode(row[:end]))
    return written


def _agreement(ours: CausalGenerator, prompts: list[Prompt], theirs: list[str], own: list[str]) -> None:
    """How far the greedy texts are the same, and how likely each finds its own under float32."""
    same = [
        next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))) / len(a)
        for a, b in zip(theirs, own, strict=True)
        if a
    ]
    exact = load_generator(ours.name, device="cpu", dtype="float32", engine="transformers")
    means = [
        statistics.mean(score.mean for score in scored)
        for scored in (exact.score(prompts, theirs), exact.score(prompts, own), ours.score(prompts, theirs))
    ]
    table(
        ["agreement", ""],
        [
            ["share of a text until the first other token, mean", f"{statistics.mean(same):.2f}"],
            ["float32's log-probability a token, of its own texts", f"{means[0]:.4f}"],
            ["the same, of our texts", f"{means[1]:.4f}"],
            ["our log-probability a token, of float32's texts", f"{means[2]:.4f}"],
        ],
    )


def _quality(ours: CausalGenerator, peer: torch.nn.Module, questions: Path, most: int) -> None:
    """F1 of both, each question put with the passage that holds its answer."""
    known = [q for q in read_questions(questions) if q.answers and q.evidence]
    known = known[:: max(1, len(known) // most)][:most]
    prompts = [one_by_one_prompt(q.evidence, q.question) for q in known]
    until = {"stop_strings": "\n", "tokenizer": AutoTokenizer.from_pretrained(ours.name)}
    ours.forget()
    began = time.perf_counter()
    own = [c.text for c in ours.generate(prompts, max_tokens=48, stop=("\n",))]
    seconds = [time.perf_counter() - began]
    theirs: list[str] = []
    for start in range(0, len(prompts), 8):
        ids = [a + b for a, b in map(ours.prompt_ids, prompts[start : start + 8])]
        theirs += [text.partition("\n")[0] for text in _theirs(peer, ours, ids, 48, **until)]
    seconds.append(time.perf_counter() - began - seconds[0])
    f1 = [
        [token_f1(parse_one_by_one(text), q.answers) for text, q in zip(texts, known, strict=True)]
        for texts in (theirs, own)
    ]
    apart = paired_difference(f1[1], f1[0], [q.source for q in known])
    assert apart is not None
    table(
        [f"F1, {len(known)} questions, gold passage", ""],
        [
            ["transformers, float32", f"{100 * statistics.mean(f1[0]):.2f}"],
            ["ours", f"{100 * statistics.mean(f1[1]):.2f}"],
            ["difference", " ".join(f"{100 * x:+.2f}" for x in (apart.value, apart.low, apart.high))],
            ["answers a second, float32 and ours", ", ".join(f"{len(known) / s:.2f}" for s in seconds[::-1])],
            ["ratio", f"{seconds[1] / seconds[0]:.2f}"],
            ["the same answer", f"{statistics.mean(a == b for a, b in zip(theirs, own, strict=True)):.3f}"],
        ],
    )


if __name__ == "__main__":
    main()
