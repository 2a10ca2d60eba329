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

# What anybody knows, to show the form of a short answer where there is no passage.
KNOWN = """Question: What is the capital of France?
Answer: Paris
Question: How many legs does a spider have?
Answer: eight

"""

# Made-up sentences with the question that each answers, for a model that completes rather than obeys.
ASKED = """Title: City Museum
Sentence: On Mondays it stays closed, because the rooms are cleaned.
Question: Why is the City Museum closed on Mondays?

Title: Maria Lindqvist
Sentence: In 1911 she moved to Trieste and built three clocks.
Question: When did Maria Lindqvist move to Trieste?

Title: Carbon steel
Sentence: It is used for springs and high-strength wires.
Question: What is carbon steel used for?

"""

# SimRAG's two tasks besides answering (Xu et al. 2024, section 3.1), one made-up passage for both: name what
# could be asked for, then ask for one of it.
NAMED = """Passage: City Museum
The museum opens at nine. On Mondays it stays closed, because the rooms are cleaned. A ticket costs four \
crowns, and children enter free.
Answers: nine; Mondays; the rooms are cleaned; four crowns; children
Answer: Mondays
Question: When is the City Museum closed?
Answer: four crowns
Question: How much is a ticket to the City Museum?

"""

REFUSAL = "unanswerable"
"""What a tuned generator writes for a passage that does not answer."""

# A small model copies a layout of placeholders ("[number]") as it stands, so the form is shown filled in.
TOGETHER = (
    "You answer questions from numbered passages. First write the number of the passage that answers the "
    "question, then the answer, as short as it can be and in the words of the passage. Where the passage is "
    "in another language than the question, the answer is in that of the question. If no passage answers it, "
    "write 0 and no answer. Where passage 3 says that the gate is blue, the reply to the question what "
    "colour it has is:\n\n### Reference\n3\n\n### Answer\nblue"
)

TOGETHER_QUOTING = (
    "You answer questions from numbered passages that are in another language than the question. First write "
    "the number of the passage that answers the question, then the words of the passage that say so, copied "
    "letter by letter in the passage's own language, then the answer in the language of the question, as "
    "short as it can be. If no passage answers it, write 0, no words and no answer. Where passage 3 says "
    "that the gate is blue, the reply to the question Welche Farbe hat das Tor? is:\n\n### Reference\n3\n\n"
    "### Quote\nthe gate is blue\n\n### Answer\nblau"
)

_REPLY = re.compile(
    r"\s*(?:#+\s*Reference\s*)?(?P<cited>[^#]*?)\s*(?:#+\s*Quote\s*:?\s*(?P<quote>.*?)\s*)?"
    r"#+\s*Answer\s*:?\s*(?P<answer>.*)",
    re.DOTALL | re.IGNORECASE,
)


def passage_prefix(text: str) -> str:
    """A passage as it starts every prompt about it, so that its keys and values serve them all.

    Without a text: what stands before a question that is asked about no passage.
    """
    return f"{SHOWN}Passage: {text.strip()}\n" if text.strip() else SHOWN


def likelihood_prompt(text: str) -> Prompt:
    """What stands before a question whose likelihood is asked (UPR, Sachan et al. 2022)."""
    return Prompt(prefix=passage_prefix(text), text="Question:")


def one_by_one_prompt(text: str, question: str) -> Prompt:
    """One passage and the question, to be completed with a short answer up to the end of the line."""
    return Prompt(prefix=passage_prefix(text), text=f"Question: {question.strip()}\nAnswer:")


def closed_book_prompt(question: str) -> Prompt:
    """The question without any passage: what a model answers here stood in its head."""
    return Prompt(prefix=KNOWN, text=f"Question: {question.strip()}\nAnswer:")


def ask_prompt(title: str, sentence: str, opening: str) -> Prompt:
    """A sentence, to be followed by the question that it answers; the question begins with `opening`."""
    return Prompt(prefix=f"{ASKED}Title: {title}\nSentence: {sentence}\nQuestion:", text=f" {opening}")


def ask_blindly_prompt(title: str, opening: str) -> Prompt:
    """The same without the sentence: a question that is as likely here asks about nothing in it."""
    return Prompt(prefix=f"{ASKED}Title: {title}\nQuestion:", text=f" {opening}")


def name_answers_prompt(text: str) -> Prompt:
    """A passage, to be followed by what could be asked for in it, with semicolons between."""
    return Prompt(prefix=f"{NAMED}Passage: {text.strip()}\n", text="Answers:")


def named_answers(answers: Sequence[str]) -> str:
    """The completion that `name_answers_prompt` asks for."""
    return f" {'; '.join(answers)}"


def parse_answers(reply: str) -> list[str]:
    """The answers of a completion, each once, without quotation marks around them and a final full stop."""
    first = reply.strip().partition("\n")[0]
    named = (parse_one_by_one(piece) for piece in first.split(";"))
    return list({answer.casefold(): answer for answer in named if answer}.values())


def ask_for_prompt(text: str, answer: str) -> Prompt:
    """A passage and an answer that stands in it, to be followed by the question that it answers."""
    return Prompt(prefix=f"{NAMED}Passage: {text.strip()}\n", text=f"Answer: {answer.strip()}\nQuestion:")


def instruction_prompt(instruction: str, given: str = "") -> Prompt:
    """An instruction with the text that it is about, to be completed up to the end of the line."""
    about = f"Input: {given.strip()}\n" if given.strip() else ""
    return Prompt(text=f"Instruction: {instruction.strip()}\n{about}Response:")


def choice_question(question: str, options: Sequence[str]) -> str:
    """A question with options to choose from; its answer is `option`."""
    return " ".join([question, *(option(i, text) for i, text in enumerate(options))])


def option(place: int, text: str) -> str:
    """An option as it is shown and answered: `B) Mondays`."""
    return f"{chr(ord('A') + place)}) {text}"


# MMLU's own layout (Hendrycks et al. 2021), for its figures to be comparable; of the letters after "Answer:"
# the likeliest is taken.
def choice_prompt(
    subject: str,
    shots: Sequence[tuple[str, Sequence[str], str]],
    question: str,
    options: Sequence[str],
    background: Sequence[str] = (),
) -> Prompt:
    """A question with lettered options, to be followed by a space and a letter.

    `shots` are examples with their letters; `background` are passages that may help.
    """
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    parts = [f"The following are multiple choice questions (with answers){about}.\n"]
    parts += [f"{_lettered(asked, its)}\nAnswer: {letter}\n" for asked, its, letter in shots]
    parts += [f"Background: {text.strip()}\n" for text in background]
    return Prompt(prefix="\n".join([*parts, _lettered(question, options)]) + "\nAnswer", text=":")


def _lettered(question: str, options: Sequence[str]) -> str:
    return "\n".join([question, *(f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(options))])


def asked_with_passages(texts: Sequence[str], question: str) -> Prompt:
    """Passages and a question for a chat model of which nothing is known."""
    numbered = "\n\n".join(f"[{n}] {text.strip()}" for n, text in enumerate(texts, start=1))
    return Prompt(
        text=f"{numbered}\n\nAnswer from these passages alone, as briefly as you can and without any "
        f"explanation. If they do not answer, reply: {REFUSAL}.\n\nQuestion: {question.strip()}",
        chat=True,
    )


def claim_question(claim: str) -> str:
    """A claim as a question, to be answered with yes or no."""
    return f"Is it true that {claim.strip().rstrip('.')}?"


def parse_one_by_one(reply: str) -> str:
    """The answer of a completion: its first line, without quotation marks around it and a final full stop.

    Empty where the reply refuses.
    """
    lines = reply.strip().splitlines()
    answer = lines[0].strip() if lines else ""
    if len(answer) > 1 and answer[0] in "\"'“" and answer[-1] in "\"'”":
        answer = answer[1:-1]
    answer = answer.removesuffix(".").strip()
    return "" if answer.casefold() == REFUSAL else answer


def together_prompt(texts: Sequence[str], question: str, *, quoting: bool = False) -> Prompt:
    """Numbered passages and the question; the reply cites first (ALoFTRAG's layout, Devine 2025).

    With `quoting`, for passages in another language, the words of the passage stand before the answer.
    """
    numbered = "\n\n".join(f"### {n}\n{text.strip()}" for n, text in enumerate(texts, start=1))
    return Prompt(
        system=TOGETHER_QUOTING if quoting else TOGETHER,
        text=f"{numbered}\n\n### Question\n{question.strip()}",
        chat=True,
        prefill="### Reference\n",
    )


def together_reply(cited: int, answer: str) -> str:
    """The reply that `together_prompt` asks for, after its prefill; 0 cites nothing."""
    return f"{cited}\n\n### Answer\n{answer}"


def parse_together(reply: str, passages: int) -> tuple[tuple[int, ...], str]:
    """The cited numbers that exist, in order, once each, and the answer. No layout: it is all answer."""
    match = _REPLY.match(reply)
    if match is None:
        return (), reply.strip()
    numbers = dict.fromkeys(int(n) for n in re.findall(r"\d+", match["cited"]))
    return tuple(n for n in numbers if 1 <= n <= passages), match["answer"].strip()


def parse_quote(reply: str) -> str:
    """The words of the passage that a reply quotes, on one line and without marks around them; or none."""
    match = _REPLY.match(reply)
    return _line((match and match["quote"]) or "").strip("\"'“”„«»「」… ")


def fid_prompt(texts: Sequence[str], question: str) -> Prompt:
    """The question, with each passage apart (Fusion-in-Decoder, Izacard and Grave 2021a, section 3).

    Their marks: question, title and context. The title is a text's first line, where there are more.
    """
    return Prompt(
        text=f"question: {question.strip()}", passages=tuple(f" {_titled(text.strip())}" for text in texts)
    )


def _titled(text: str) -> str:
    title, line_break, context = text.partition("\n")
    return f"title: {title} context: {context.strip()}" if line_break else f"context: {text}"


# The tags are those of Search-R1 (Jin et al. 2025), the words our own. An example shows the form, for small
# models do not follow a description.
SEARCHING = """Answer each question. Search as often as you need to: what you write between <search> and \
</search> is looked up, and what is found stands between <information> and </information>. Then write the \
answer, as short as it can be, between <answer> and </answer>.

Question: When is the City Museum closed?
<search>City Museum closed</search>
<information>
1. The museum opens at nine. On Mondays it stays closed, because the rooms are cleaned.
</information>
<answer>Mondays</answer>

"""

MOVES = ("</search>", "</answer>")
"""What ends each thing that a model does while it searches."""

_MOVE = re.compile(
    r"<(?P<what>search|answer)>(?P<words>(?:(?!</?(?:search|answer)>).)*)(?:</(?P=what)>\s*)?\Z", re.DOTALL
)


def searching_prompt(question: str, so_far: str = "") -> Prompt:
    """The question for a model that searches by itself, and what it wrote and was given until now."""
    return Prompt(prefix=SEARCHING, text=f"Question: {question.strip()}\n{so_far}")


def parse_move(piece: str) -> tuple[str, str]:
    """What a model does at the end of what it wrote: ("search", query), ("answer", answer) or ("", "").

    The closing tag may be there or be cut off.
    """
    match = _MOVE.search(piece)
    words = " ".join(match["words"].split()) if match else ""
    return (match["what"], words) if match and words else ("", "")


def found_passages(texts: Sequence[str]) -> str:
    """What was found, as it is put in after the query."""
    listed = "\n".join(f"{n}. {' '.join(text.split())}" for n, text in enumerate(texts, start=1))
    return f"\n<information>\n{listed}\n</information>\n"


# ALoFTRAG's prompts (Devine 2025, listings 1 to 4), in words of our own.
RATE_PASSAGE = (
    "You filter texts. Given a text, you say how much useful information it holds: a score from 0 (none) to "
    "10 (a lot). Reply in this form:\n\n### Filter score\n7"
)
ASK_CHAT = (
    "You write questions for an examination. Given a text, you write one question that can be answered from "
    "the text alone, and its correct answer. The question must make sense to somebody who has not read the "
    "text: do not write 'the text' or 'according to the passage', and do not take knowledge of the text for "
    "granted. The answer is short where that is enough, and long only where it must be. Write in the "
    "language of the text. Reply in this form:\n\n### Question\nWhat colour is the gate?\n\n### Answer\nblue"
)
RATE_QUESTION = (
    "You rate questions. Given a context and a question, you give a score from 0 to 10: 0 if the question "
    "cannot be answered from the context or is not fluent, 10 if it can be answered fully from it and is "
    "fluent. Reply in this form:\n\n### Question rating score\n7"
)
RATE_ANSWER = (
    "You rate answers. Given a context, a question and an answer, you give a score from 0 to 10: 0 if the "
    "answer is wrong by the context or not fluent, 10 if it is fully right and fluent. Reply in this form:"
    "\n\n### Answer rating score\n7"
)


def ask_chat_prompt(text: str) -> Prompt:
    """One question and its answer about a text, for a model that follows instructions."""
    return Prompt(text=text, system=ASK_CHAT, chat=True, prefill="### Question\n")


def parse_asked(reply: str) -> tuple[str, str]:
    """The question and the answer of a reply to `ask_chat_prompt`; both empty where the layout is broken."""
    question, heading, answer = reply.partition("### Answer")
    return (question.strip(), answer.lstrip(":").strip()) if heading else ("", "")


def rate_passage_prompt(text: str) -> Prompt:
    """How much a text tells, 0 to 10."""
    return Prompt(text=text, system=RATE_PASSAGE, chat=True, prefill="### Filter score\n")


def rate_question_prompt(text: str, question: str) -> Prompt:
    """How well a question can be answered from a text, 0 to 10."""
    shown = f"### Context\n{text}\n\n### Question\n{question}"
    return Prompt(text=shown, system=RATE_QUESTION, chat=True, prefill="### Question rating score\n")


def rate_answer_prompt(text: str, question: str, answer: str) -> Prompt:
    """How right an answer is by a text, 0 to 10."""
    shown = f"### Context\n{text}\n\n### Question\n{question}\n\n### Answer\n{answer}"
    return Prompt(text=shown, system=RATE_ANSWER, chat=True, prefill="### Answer rating score\n")


def parse_rating(reply: str) -> float | None:
    """The score on a reply's first line; None where there is none between 0 and 10."""
    first = reply.strip().partition("\n")[0].strip("[] ")
    try:
        score = float(first)
    except ValueError:
        return None
    return score if 0 <= score <= 10 else None


REWRITE = (
    "You are given a conversation and the question that comes next. Write this question so that somebody can "
    "answer it who has not read the conversation: put in what it refers to or leaves out, in the words of "
    "the conversation, and nothing else. Do not answer it. Keep its language. If it can be understood by "
    "itself already, write it as it is. Reply with the question alone."
)


def rewrite_prompt(turns: Sequence[tuple[str, str]], question: str) -> Prompt:
    """A follow-up to these questions and answers, for a model that makes it self-contained."""
    shown = "".join(f"Question: {_line(asked)}\nAnswer: {_line(answer)}\n\n" for asked, answer in turns)
    return Prompt(text=f"{shown}Next question: {_line(question)}", system=REWRITE, chat=True)


def parse_rewritten(reply: str) -> str:
    """The question of a reply to `rewrite_prompt`: its first line, without label and quotation marks."""
    lines = [line.strip() for line in _THOUGHT.sub("", reply).splitlines() if line.strip()]
    written = _LABEL.sub("", lines[0]) if lines else ""
    if len(written) > 1 and written[0] in "\"'“" and written[-1] in "\"'”":
        written = written[1:-1]
    return written.strip()


# Made-up answers with their verdicts, as many of the one as of the other: a small model leans to what it saw.
GRADED = """Question: When is the museum closed?
Right answer: Mondays
Answer: It is closed every Monday.
Is the answer right? yes

Question: How much is a ticket?
Right answer: four crowns
Answer: A ticket costs nine crowns.
Is the answer right? no

Question: Who built the three clocks?
Right answer: Maria Lindqvist / Lindqvist
Answer: Anton Berg
Is the answer right? no

Question: What is carbon steel used for?
Right answer: springs and wires
Answer: Mostly for springs and for wires.
Is the answer right? yes

"""

SUPPORTED = """Passage: The museum opens at nine. On Mondays it stays closed, because the rooms are cleaned.
Question: When is the museum closed?
Answer: Mondays
Does the passage say so? yes

Passage: The museum opens at nine. On Mondays it stays closed, because the rooms are cleaned.
Question: How much is a ticket?
Answer: nine
Does the passage say so? no

Passage: In 1911 Maria Lindqvist moved to Trieste and built three clocks.
Question: Who moved to Vienna in 1911?
Answer: Maria Lindqvist
Does the passage say so? no

Passage: In 1911 Maria Lindqvist moved to Trieste and built three clocks.
Question: What did she build in Trieste?
Answer: three clocks
Does the passage say so? yes

"""

GRADE = (
    "You grade answers. You are given a question, the right answer in one or more spellings, and an answer. "
    "The answer is right if it says the same as one of the right answers; other words and additions do no "
    "harm, unless they contradict it. Reply with one word, yes or no: is the answer right?"
)
SUPPORT = (
    "You check answers. You are given a passage, a question and an answer. The passage supports the answer "
    "if a reader of the passage alone, who knows nothing else, would give this answer to this question. "
    "Reply with one word, yes or no: does the passage support the answer?"
)

VERDICTS = {True: " yes", False: " no"}
"""The completions that a grading prompt allows."""

SPELLINGS = 10
"""So many right answers are shown to a judge: some questions have fifty."""

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^\W*(?:next |rewritten |self-contained )?question\W*:[\s*]*", re.IGNORECASE)
_SAID = {
    "yes": True, "right": True, "correct": True, "true": True,
    "no": False, "wrong": False, "incorrect": False, "false": False,
}  # fmt: skip
_VERDICT = re.compile(
    rf"\W*(?:(?:the|my|final|verdict|answer|grade|is|it)\b\W*)*(?P<word>{'|'.join(_SAID)})"
    r"(?![\w'’])(?P<after>\W*)(?P<next>\w*)",
    re.IGNORECASE,
)


def grade_prompt(question: str, answer: str, answers: Sequence[str], passage: str = "") -> Prompt:
    """An answer, to be followed by " yes" or " no": is it one of `answers`, or does the passage say so?"""
    given = f"Question: {_line(question)}\n"
    if passage:
        shown = f"{SUPPORTED}Passage: {_line(passage)}\n"
        return Prompt(prefix=shown, text=f"{given}Answer: {_line(answer)}\nDoes the passage say so?")
    right = f"Right answer: {' / '.join(_line(a) for a in answers[:SPELLINGS])}\n"
    return Prompt(prefix=GRADED, text=f"{given}{right}Answer: {_line(answer)}\nIs the answer right?")


def grade_chat_prompt(question: str, answer: str, answers: Sequence[str], passage: str = "") -> Prompt:
    """The same for a model that follows instructions."""
    known = f"### Passage\n{passage.strip()}"
    if not passage:
        known = "### Right answer\n" + "\n".join(_line(a) for a in answers[:SPELLINGS])
    shown = f"{known}\n\n### Question\n{_line(question)}\n\n### Answer\n{_line(answer)}"
    return Prompt(text=shown, system=SUPPORT if passage else GRADE, chat=True)


def parse_verdict(reply: str) -> bool | None:
    """What a reply to a grading prompt says: yes or no, or None where it is neither, or both.

    A verdict stands at the beginning of a line ("**Verdict:** no", "Yes, because …"). Lines of reasoning
    around it do no harm, and what a model thinks aloud in <think> is no part of the reply.
    """
    found = set()
    for line in _THOUGHT.sub("", reply).splitlines():
        match = _VERDICT.match(line)
        if match is None:
            continue
        said, after = _SAID[match["word"].casefold()], match["next"].casefold()
        if after and (not match["after"].strip() or _SAID.get(after, said) != said):
            continue  # "no doubt", "yes/no", "the right answer is"
        found.add(said)
    return found.pop() if len(found) == 1 else None


def _line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())
