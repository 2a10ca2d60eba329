"""How far does a model agree with people on which answers are right?

Takes files of answers that people judged: JSON Lines as `fieldstone evaluate --judged` reads them, EVOUNA
(Wang et al., NeurIPS 2023: answers of five systems to Natural Questions and TriviaQA, each judged by people;
one system a question is drawn). From questions with several people's answers (question, answers, passage_id)
it makes cases: one person's answer by those of the others is right, the answer to another question about the
same passage is wrong.

For each way of judging: kappa, raw agreement and bias with 95 % intervals, and what token F1 of .5 or more
reaches on the same answers.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from fieldstone.evaluate.judge.fitness import JudgedAnswer, fitness, in_words, read_judged
from fieldstone.evaluate.judge.verdict import Claim, grade
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.models import load_generator
from machine import begin, table

SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")


def judged_answers(path: Path, count: int, chance: random.Random) -> list[JudgedAnswer]:
    """So many cases of a file, drawn by chance."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        made = _evouna(json.loads(text), chance)
    elif "passage_id" in json.loads(text.partition("\n")[0]):
        made = _people([json.loads(line) for line in text.splitlines()], chance)
    else:
        made = read_judged(path)
    return chance.sample(made, min(count, len(made)))


def _evouna(rows: list[dict[str, Any]], chance: random.Random) -> list[JudgedAnswer]:
    made = []
    for row in rows:
        system = chance.choice(SYSTEMS)
        answers = tuple(a.strip() for a in (row["golden_answer"] or "").split("/") if a.strip())
        answer, right = str(row[f"answer_{system}"] or "").strip(), row[f"judge_{system}"]
        if answers and answer and isinstance(right, bool) and not row["improper"]:
            made.append(JudgedAnswer(Claim(row["question"], answer, answers), right, row["question"]))
    return made


def _people(rows: list[dict[str, Any]], chance: random.Random) -> list[JudgedAnswer]:
    """As many right as wrong; a wrong one shares no word with a right one."""
    by_passage = defaultdict(list)
    for row in rows:
        by_passage[row["passage_id"]].append(row)
    made = []
    for row in rows:
        if len(row["answers"]) < 2:
            continue
        answers, about = list(row["answers"]), row["passage_id"].partition("#")[0]
        own = answers.pop(chance.randrange(len(answers)))
        wrong = [
            other["answers"][0]
            for other in by_passage[row["passage_id"]]
            if not token_f1(other["answers"][0], row["answers"])
        ]
        if wrong:
            made.append(JudgedAnswer(Claim(row["question"], own, tuple(answers)), True, about))
            made.append(
                JudgedAnswer(Claim(row["question"], chance.choice(wrong), tuple(answers)), False, about)
            )
    return made


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "none"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def main() -> None:
    """Grade, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="answers that people judged")
    parser.add_argument("--judge", default="embedded:smollm2", help="the model that judges")
    parser.add_argument("--cases", type=int, default=120, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = begin(parser)
    judge = load_generator(arguments.judge, threads=arguments.threads)
    for path in arguments.files:
        cases = judged_answers(path, arguments.cases, random.Random(arguments.seed))
        right = sum(case.right for case in cases)
        print(f"{path.name}: {len(cases)} answers, {right} of them right by people")
        rows = []
        for way in ("score", "generate"):
            found = fitness(arguments.judge, grade(judge, [case.claim for case in cases], way=way), cases)
            print(f"{way}: {in_words(found)}")
            rows.append(
                [way, str(found.unread), _shown(found.kappa), _shown(found.agreement), _shown(found.bias)]
            )
        rows.append(["token F1 >= .5", "0", _shown(found.by_words), "", ""])
        table(["way", "unread", "kappa", "agreement", "bias"], rows)


if __name__ == "__main__":
    main()
