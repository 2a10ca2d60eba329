"""Made-up handbooks of ports, full of names, dates and numbers, and a generator that asks about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fieldstone.evaluate.questions import Question
from fieldstone.library import Library
from fieldstone.models import Completion, Prompt, Score, load_encoder
from fieldstone.models.fake import FakeGenerator
from fieldstone.records import Heading
from fieldstone.search import Index
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.synthesize.terms import terms
from small_library import put

PORTS = ("Kelmouth", "Marrowby", "Trenwick", "Oldhaven", "Sandquay", "Fernport", "Dunlock", "Ashferry")
MASTERS = ("Ida", "Bruno", "Clara", "Otto", "Greta", "Hugo", "Marta", "Emil")
SECTIONS = (
    (
        "Berths",
        "The harbour of {port} was opened by {master} Lindqvist in {year}. "
        "At the quay of {port} the crane lifts {n} tonnes on a working day.",
    ),
    (
        "Tariffs",
        "A day at the quay of {port} costs {m} crowns for a fishing boat. "
        "Since {later} the office of {port} sends invoices within {k} days.",
    ),
    (
        "Safety",
        "The fire watch of {port} answers on channel {k} during the night. "
        "In {later} the storm Wilhelmina broke {n} metres of the mole at {port}.",
    ),
)


def handbooks(count: int = 8) -> dict[str, str]:
    """File name -> Markdown, a port each, in three sections of two sentences."""
    return {
        f"{port.lower()}.md": f"# {port}\n"
        + "".join(
            f"\n## {heading}\n\n"
            + body.format(
                port=port, master=MASTERS[i], year=1811 + 13 * i, later=1950 + 7 * i, n=21 + 17 * i,
                m=105 + 31 * i, k=3 + i,
            )
            + "\n"
            for heading, body in SECTIONS
        )
        for i, port in enumerate(PORTS[:count])
    }  # fmt: skip


def own_questions(word: str) -> list[Question]:
    """Three questions about each port, the last of them without an answer."""
    asked = []
    for i, port in enumerate(PORTS):
        file = f"{port.lower()}.md"
        cost = f"A day at the quay of {port} costs {105 + 31 * i} crowns for a fishing boat."
        told = f"The fire watch of {port} answers on channel {3 + i} during the night."
        asked += [
            Question(f"{word}{i}a", f"{word} does a day cost at {port}?", (f"{105 + 31 * i}",), file, cost),
            Question(f"{word}{i}b", f"{word} channel has the watch of {port}?", (f"{3 + i}",), file, told),
            Question(f"{word}{i}c", f"{word} is the airport of {port}?", (), ""),
        ]
    return asked


def library_of(path: Path, texts: Mapping[str, str], *, tokens: int = 50) -> Library:
    """A library with these Markdown texts, split at their headings, embedded with `fake:words`."""
    path.mkdir(parents=True, exist_ok=True)
    library = Library(path / "library.db", create=True)
    for source, text in texts.items():
        add(library, source, text, tokens=tokens)
    embed_library(library, load_encoder("fake:words"))
    return library


def add(library: Library, source: str, text: str, *, tokens: int = 50) -> None:
    """One more text; its vectors are yet to be made."""
    marks = re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)
    headings = tuple(Heading(len(m[1]), m[2], m.start()) for m in marks)
    put(library, source, text, title=text.splitlines()[0].strip("# "), headings=headings, tokens=tokens)


def index_of(path: Path, library: Library) -> Index:
    """Both indexes over that library."""
    encoder = load_encoder("fake:words")
    store = open_store("memory:", encoder.dimension, encoder.fingerprint)
    return Index(library, LexicalIndex(path / "lexical", library), DenseIndex(library, encoder, store))


class Clerk:
    """Turns a sentence into a question about its last name or number, and answers so; `fake:words` else.

    `read` holds every prompt that it was given.
    """

    name, fingerprint, context_tokens = "clerk", "clerk00000000001", 4096

    def __init__(self) -> None:
        self.fake, self.read = FakeGenerator(), list[Prompt]()

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 64, stop: Sequence[str] = (),
        temperature: float = 0.0, seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """One completion a prompt."""
        self.read += prompts
        replies = self.fake.generate(prompts, max_tokens=max_tokens, stop=stop, temperature=temperature)
        written = [self._write(p, r.text) for p, r in zip(prompts, replies, strict=True)]
        scores = self.fake.score(prompts, written)
        return [Completion(w, s.tokens, s.logprob, True) for w, s in zip(written, scores, strict=True)]

    def stream(
        self, prompt: Prompt, *, max_tokens: int = 64, stop: Sequence[str] = (), temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:  # fmt: skip
        """The same completion in one piece."""
        yield self.generate([prompt], max_tokens=max_tokens, stop=stop)[0].text

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """As `fake:words` does."""
        self.read += prompts
        return self.fake.score(prompts, completions)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return self.fake.count_tokens(texts)

    def forget(self) -> None:
        """Nothing is kept."""

    def _write(self, prompt: Prompt, reply: str) -> str:
        if shown := re.search(r"Sentence: ([^\n]*)\nQuestion:$", prompt.prefix):
            told = [term.text for term in terms(shown[1])][-1:]
            left = shown[1].strip(".").replace(told[0], "") if told else shown[1].strip(".")
            return " " + " ".join(left.split())
        if prompt.text.endswith("Answer:"):
            found = [term.text for term in terms(reply) if term.text not in prompt.text]
            return f" {found[-1]}." if found else " no idea"
        return reply


class Rater(Clerk):
    """A clerk who rates what is about Kelmouth with a nine, and all else with a seven."""

    def _write(self, prompt: Prompt, reply: str) -> str:
        if "score" in prompt.prefill:
            return "9" if "Kelmouth" in prompt.text else "7"
        return super()._write(prompt, reply)


def reasons(rows: Sequence[Mapping[str, object]]) -> Counter[object]:
    """How often each reason stands in the rows of rejected.jsonl."""
    return Counter(row["reason"] for row in rows)
