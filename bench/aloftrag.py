"""ALoFTRAG's claim, scaled down: tuned to cite among n passages, does the model cite and answer better?

Takes a workspace whose questions are written and questions with known evidence about its documents. As in the
paper's evaluation (Devine 2025) the passage that answers always stands among the n: the best found ones, the
last of them replaced where it is missing, in an order drawn by chance. What is measured is reading and
citing, not searching. Each arm is tuned from the same examples: `hard` or `random` passages beside the right
one; `unfiltered` takes questions that the filters rejected as well. Intervals are of 95 %, clustered by
document.

`cites`: the reply's first number is the passage's. `likeliest`: the number that the model gives the highest
probability, which a reply in no valid layout has as well. Chance is 1/n.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.questions import read_questions
from fieldstone.evaluate.run import judge
from fieldstone.evaluate.statistics.bootstrap import Value, bootstrap_mean, paired_difference
from fieldstone.examples import read_examples
from fieldstone.models import Generator, Prompt
from fieldstone.prompts import parse_together, together_prompt
from fieldstone.recipes import choose_settings
from fieldstone.recipes.build import Build
from fieldstone.records import Example, fingerprint
from fieldstone.search import search
from fieldstone.search.embed import embed_beside
from fieldstone.tune.generator import tune_generator
from fieldstone.tune.generator.lessons import lessons
from fieldstone.workspace import open_workspace
from machine import begin

BATCH = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """A question with its passages in a prompt; the right one has the number `right`."""

    prompt: Prompt
    right: int
    answers: tuple[str, ...]
    document: str


def main() -> None:
    """Measure the untuned model, then each arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("into", type=Path, help="folder for the tuned models; they are not tuned again")
    parser.add_argument("--passages", default="2,5", help="how many are shown, with commas between")
    parser.add_argument("--arms", default="hard,random,unfiltered")
    parser.add_argument("--rows", type=int, default=200, help="training rows of each arm")
    parser.add_argument("--sample", type=int, default=200, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="flags")
    arguments = begin(parser)
    workspace = open_workspace(arguments.workspace)
    flags = [f"models.threads={arguments.threads}", "generator.checks=1", "answer.max_tokens=32"]
    settings = choose_settings("aloftrag", {}, flags=[*flags, "generator.batch=4", *arguments.flags])
    build = Build(workspace, (), settings, workspace.library())
    texts = build.library.passage_texts()
    for passages in map(int, arguments.passages.split(",")):
        shown = _shown(build, arguments.questions, passages, arguments.sample)
        base = _measured(build.generator, shown)
        print(f"\n{passages} passages, {len(shown)} questions, chance {1 / passages:.3f}")
        _print("untuned", base, None, shown)
        for arm in arguments.arms.split(","):
            train = _examples(build, filtered=arm != "unfiltered")
            random.Random(arguments.seed).shuffle(train)
            how = settings.generator.model_copy(update={"hard_negatives": arm != "random"})
            rows = lessons(train, texts, "together", how, passages, arguments.seed)[: arguments.rows]
            into = arguments.into / f"{arm}-{passages}-{arguments.seed}"
            made = tune_generator(
                settings.models.generator, rows, into, how, dev_score=lambda _: 0.0,
                seed=arguments.seed, threads=arguments.threads,
            )  # fmt: skip
            told = f"{arm} ({made.rows} rows, {made.seconds:.0f} s)"
            _print(told, _measured(build.load_generator(str(into)), shown), base, shown)


def _examples(build: Build, *, filtered: bool) -> list[Example]:
    """Training examples with an answer; unfiltered, a like share of what was rejected on the way as well."""
    train = [e for e in build.examples("train") if e.answer and len(e.negatives) > 1]
    if filtered:
        return train
    held_out = {e.passage_id for split in ("dev", "test") for e in build.examples(split)}
    rejected = read_examples(build.workspace.path / "examples" / "rejected.jsonl")
    near = {e.passage_id: e.negatives for e in train}
    others = [e for e in rejected if e.answer and e.passage_id in near and e.passage_id not in held_out]
    return train + [Example(e.id, e.question, e.answer, e.passage_id, near[e.passage_id]) for e in others]


def _shown(build: Build, questions: Path, passages: int, sample: int) -> list[Shown]:
    """The same questions for all arms, each with its passage among the best found."""
    judged, _ = judge(build.library, read_questions(questions))
    usable = [item for item in judged if item.relevant and item.question.answers]
    usable = sorted(usable, key=lambda item: fingerprint("aloftrag", item.question.id))[:sample]
    encoder = build.load_encoder(build.settings.models.encoder)
    embed_beside(build.library, encoder)
    texts = build.library.passage_texts()
    asked = [item.question.question for item in usable]
    found = search(build.open_index(encoder), asked, build.settings.search, passages)
    shown = []
    for item, hits in zip(usable, found, strict=True):
        ids = [hit.passage.id for hit in hits]
        right = next((id_ for id_ in ids if id_ in item.relevant[0]), min(item.relevant[0]))
        others = [id_ for id_ in ids if id_ not in item.relevant[0]][: passages - 1]
        random.Random(f"123 {item.question.id}").shuffle(others)
        place = random.Random(f"place {item.question.id}").randrange(len(others) + 1)
        order = [*others[:place], right, *others[place:]]
        prompt = together_prompt([texts[id_] for id_ in order], item.question.question)
        shown.append(Shown(prompt, place + 1, item.question.answers, item.question.source))
    return shown


def _measured(generator: Generator, shown: Sequence[Shown]) -> dict[str, list[Value]]:
    """A value a question under each measure; `number` is the one that the reply cites, 0 for none."""
    found: dict[str, list[Value]] = {m: [] for m in ("cites", "likeliest", "F1", "valid", "number")}
    for start in range(0, len(shown), BATCH):
        batch = shown[start : start + BATCH]
        replies = generator.generate([item.prompt for item in batch], max_tokens=32)
        for item, reply in zip(batch, replies, strict=True):
            passages = item.prompt.text.count("### ") - 1
            cited, text = parse_together(reply.text, passages)
            numbers = [str(n + 1) for n in range(passages)]
            shared = _passages_first(item.prompt)
            scores = [s.logprob for s in generator.score([shared] * passages, numbers)]
            number = cited[0] if cited else 0
            found["number"].append(number)
            found["valid"].append(float(bool(cited) and bool(text)))
            found["cites"].append(float(number == item.right))
            found["likeliest"].append(float(scores.index(max(scores)) + 1 == item.right))
            found["F1"].append(token_f1(text.partition("\n###")[0], item.answers))
    return found


def _passages_first(prompt: Prompt) -> Prompt:
    """The same prompt, whose passages are read once for all that is scored after them."""
    passages, mark, question = prompt.text.rpartition("\n\n### Question\n")
    return replace(prompt, prefix=passages, text=mark + question)


def _print(
    name: str,
    found: dict[str, list[Value]],
    base: dict[str, list[Value]] | None,
    shown: Sequence[Shown],
) -> None:
    """A line a measure, with the difference to the untuned model, and how often each number was cited."""
    clusters = [item.document for item in shown]
    print(name)
    for measure in ("cites", "likeliest", "F1", "valid"):
        its = bootstrap_mean(found[measure], clusters)
        assert its is not None
        line = f"  {measure:<10} {its.value:.3f} ({its.low:.3f} … {its.high:.3f})"
        change = paired_difference(found[measure], base[measure], clusters) if base else None
        if change is not None:
            line += f"   {change.value:+.3f} ({change.low:+.3f} … {change.high:+.3f})"
        print(line)
    cited = Counter(int(n) for n in found["number"] if isinstance(n, int))
    right = Counter(item.right for item in shown)
    print(f"  cited {dict(sorted(cited.items()))}, right {dict(sorted(right.items()))}", flush=True)


if __name__ == "__main__":
    main()
