from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.errors import ModelError
from fieldstone.models import Prompt
from fieldstone.models.fake import FakeEncoder, FakeGenerator

PASSAGES = [
    "The harbour opens at six in the morning and closes at ten.",
    "Cats purr when they are content.",
    "A pilot boards every vessel longer than eighty metres.",
]
QUESTIONS = ["When does the harbour open?", "Why do cats purr?", "Which vessels does a pilot board?"]


def test_retrieval_finds() -> None:
    encoder = FakeEncoder()
    similar = encoder.encode_queries(QUESTIONS) @ encoder.encode_passages(PASSAGES).T
    assert similar.argmax(1).tolist() == [0, 1, 2]


def test_a_question_is_likelier_after_its_own_passage() -> None:
    generator = FakeGenerator()
    for right, question in enumerate(QUESTIONS):
        prompts = [Prompt(prefix=f"Passage: {text}\n", text="Question:") for text in PASSAGES]
        scores = [score.logprob for score in generator.score(prompts, [question] * 3)]
        assert max(range(3), key=scores.__getitem__) == right


def test_answers_come_out_of_the_passage() -> None:
    shown = "Passage: The museum opens at nine.\nQuestion: When does it open?\nAnswer: nine\n\n"
    for passage, question in zip(PASSAGES, QUESTIONS, strict=True):
        prompt = Prompt(
            prefix=f"{shown}Passage: {passage} Bread is baked.\n", text=f"Question: {question}\nAnswer:"
        )
        assert FakeGenerator().generate([prompt])[0].text == passage


def test_citing_and_asking() -> None:
    numbered = "\n\n".join(f"### {n}\n{text}" for n, text in enumerate(PASSAGES, start=1))
    for n, question in enumerate(QUESTIONS, start=1):
        prompt = Prompt(text=f"{numbered}\n\n### Question\n{question}", chat=True, prefill="### Reference\n")
        assert FakeGenerator().generate([prompt])[0].text == f"{n}\n\n### Answer\n{PASSAGES[n - 1]}"
    asked = FakeGenerator().generate([Prompt(prefix=f"Passage: {PASSAGES[1]}\n", text="Question:")])[0].text
    assert asked == "What about cats purr they content?"


def test_a_long_prompt_is_refused() -> None:
    with pytest.raises(ModelError, match="does not fit into its 4096"):
        FakeGenerator().generate([Prompt(text="word " * 5000)])


@given(st.text(), st.text(), st.integers(0, 8))
def test_any_text_is_taken(prefix: str, text: str, most: int) -> None:
    generator, prompt = FakeGenerator(), Prompt(prefix=prefix, text=text)
    made = generator.generate([prompt], max_tokens=most)[0]
    assert made.tokens <= most
    assert "".join(generator.stream(prompt, max_tokens=most)) == made.text
    assert generator.score([prompt], [text])[0].logprob <= 0
    assert np.isclose(np.linalg.norm(FakeEncoder().encode_passages([text])), 1, atol=1e-5)
