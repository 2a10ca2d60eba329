"""The one place where prompts are written and replies are parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fieldstone.models import Prompt

NO_ANSWER = "The documents do not answer this question."

# One made-up passage with short answers, whose form a small model copies. On 96 questions of SQuAD's train
# articles SmolLM2-135M's token F1 on the gold passage is .37 with it and .12 without; with a longer passage
# or three answers it is the same within the noise.
SHOWN = """Passage: The museum opens at nine. On Mondays it stays closed, because the rooms are cleaned. \
A ticket costs four crowns, and children enter free.
Question: When is the museum closed?
Answer: Mondays
Question: How much is a ticket?
Answer: four crowns

"""

# A small model copies a layout of placeholders ("[number]") as it stands, so the form is shown filled in.
TOGETHER = (
    "You answer questions from numbered passages. First write the number of the passage that answers the "
    "question, then the answer, as short as it can be and in the words of the passage. If no passage answers "
    "it, write 0 and no answer. Where passage 3 says that the gate is blue, the reply to the question what "
    "colour it has is:\n\n### Reference\n3\n\n### Answer\nblue"
)

_REPLY = re.compile(
    r"\s*(?:#+\s*Reference\s*)?(?P<cited>[^#]*?)\s*#+\s*Answer\s*:?\s*(?P<answer>.*)",
    re.DOTALL | re.IGNORECASE,
)


def passage_prefix(text: str) -> str:
    """A passage as it starts every prompt about it, so that its keys and values serve them all."""
    return f"{SHOWN}Passage: {text.strip()}\n"


def likelihood_prompt(text: str) -> Prompt:
    """What stands before a question whose likelihood is asked (UPR, Sachan et al. 2022)."""
    return Prompt(prefix=passage_prefix(text), text="Question:")


def one_by_one_prompt(text: str, question: str) -> Prompt:
    """One passage and the question, to be completed with a short answer up to the end of the line."""
    return Prompt(prefix=passage_prefix(text), text=f"Question: {question.strip()}\nAnswer:")


def parse_one_by_one(reply: str) -> str:
    """The answer of a completion: its first line, without quotation marks around it and a final full stop."""
    lines = reply.strip().splitlines()
    answer = lines[0].strip() if lines else ""
    if len(answer) > 1 and answer[0] in "\"'“" and answer[-1] in "\"'”":
        answer = answer[1:-1]
    return answer.removesuffix(".").strip()


def together_prompt(texts: Sequence[str], question: str) -> Prompt:
    """Numbered passages and the question; the reply cites first (ALoFTRAG's layout, Devine 2025)."""
    numbered = "\n\n".join(f"### {n}\n{text.strip()}" for n, text in enumerate(texts, start=1))
    return Prompt(
        system=TOGETHER,
        text=f"{numbered}\n\n### Question\n{question.strip()}",
        chat=True,
        prefill="### Reference\n",
    )


def parse_together(reply: str, passages: int) -> tuple[tuple[int, ...], str]:
    """The cited numbers that exist, in order, once each, and the answer. No layout: it is all answer."""
    match = _REPLY.match(reply)
    if match is None:
        return (), reply.strip()
    numbers = dict.fromkeys(int(n) for n in re.findall(r"\d+", match["cited"]))
    return tuple(n for n in numbers if 1 <= n <= passages), match["answer"].strip()
