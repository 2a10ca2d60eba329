"""`fake:words`: models without weights that work by shared words: deterministic, instant, for tests.

They keep the promises of the real ones: retrieval finds, answers come out of the passage, likelihood is
higher where words are shared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from fieldstone.errors import ModelError
from fieldstone.models import (
    Completion,
    Encoder,
    Generator,
    Heard,
    Options,
    Prompt,
    Reranker,
    Score,
    Vectors,
)
from fieldstone.models.limits import refuse_passages

_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\s*\S+|\s+$")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_COMMON = frozenset(
    _WORD.findall(
        "a an and answer are as at be by do does for from had has have how in is it its of on or passage "
        "question that the this to was were what when where which who why will with you your"
    )
)
_VOCABULARY = 50_000  # as many words as a language is pretended to have


def load_encoder(name: str, options: Options) -> Encoder:
    """`fake:words`."""
    _check(name)
    return FakeEncoder(name, options.query_prefix or "", options.passage_prefix or "")


def load_reranker(name: str, _: Options) -> Reranker:
    """`fake:words`."""
    _check(name)
    return FakeReranker(name)


def load_generator(name: str, _: Options) -> Generator:
    """`fake:words`."""
    _check(name)
    return FakeGenerator(name)


def _check(name: str) -> None:
    if name != "fake:words":
        raise ModelError(f"{name!r}: the only fake models are fake:words")


class FakeEncoder:
    """Words and their three-letter pieces, hashed into a unit vector; common words weigh little."""

    dimension = 256
    max_tokens = 512

    def __init__(self, name: str = "fake:words", query_prefix: str = "", passage_prefix: str = "") -> None:
        self.name = name
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.fingerprint = hashlib.sha256(f"words {query_prefix}|{passage_prefix}".encode()).hexdigest()[:16]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        return self._encode([self.query_prefix + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage."""
        return self._encode([self.passage_prefix + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(_words(text)) for text in texts]

    def _encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            places, weights = [0], [1e-3]  # a text without words has a direction too
            for word in _words(text)[: self.max_tokens]:
                for place, weight in _hashed(word):
                    places.append(place % self.dimension)
                    weights.append(weight)
            np.add.at(vector, places, np.array(weights, np.float32))
            vector /= np.linalg.norm(vector)
        return vectors


@lru_cache(maxsize=1 << 14)
def _hashed(word: str) -> list[tuple[int, float]]:
    """A number and a weight of the word and of each of its pieces."""
    scale = 0.1 if word in _COMMON else 1.0
    hashed = []
    for piece in (word, *(f"^{word}$"[i : i + 3] for i in range(len(word)))):
        digest = hashlib.blake2b(piece.encode(), digest_size=4).digest()
        weight = scale if piece == word else 0.3 * scale
        hashed.append((int.from_bytes(digest[:3], "little"), -weight if digest[3] & 1 else weight))
    return hashed


class FakeReranker:
    """The share of the question's words that the text has."""

    def __init__(self, name: str = "fake:words") -> None:
        self.name = name
        self.fingerprint = "fakewords0000001"

    def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text."""
        asked = _content(question)
        return [len(asked & _content(text)) / max(1, len(asked)) for text in texts]


class FakeGenerator:
    """Copies the sentence of the prompt that shares most words with the question in it.

    A prompt that ends with "Question:" asks for a question instead, and gets one about a sentence; a reply
    that begins with "Reference" goes on with the number of a passage.
    """

    context_tokens = 4096

    def __init__(self, name: str = "fake:words") -> None:
        self.name = name
        self.fingerprint = "fakewords0000001"

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
        heard: Heard | None = None,
    ) -> list[Completion]:
        """One completion a prompt; with `temperature` any of the three best sentences."""
        made = [self._complete(prompt, max_tokens, stop, temperature, seed) for prompt in prompts]
        if heard is not None:  # a word of each, then the next of each
            written = [list(accumulate(_PIECE.findall(one.text))) for one in made]
            for step in range(max(map(len, written), default=0)):
                for place, texts in enumerate(written):
                    if step < len(texts):
                        heard(place, texts[step])
        return made

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same completion, a word at a time."""
        text = self._complete(prompt, max_tokens, stop, temperature, seed).text
        yield from _PIECE.findall(text)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """A unigram model of each prompt, mixed with one in which all words are alike."""
        for prompt in prompts:
            refuse_passages(self.name, prompt)
        return [_unigram(p.prefix + p.text + p.prefill, c) for p, c in zip(prompts, completions, strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(_words(text)) for text in texts]

    def forget(self) -> None:
        """Nothing is kept of earlier prompts."""

    def _complete(
        self, prompt: Prompt, max_tokens: int, stop: Sequence[str], temperature: float, seed: int
    ) -> Completion:
        refuse_passages(self.name, prompt)
        whole = prompt.prefix + prompt.text
        length = len(_words(whole))
        if length > self.context_tokens:
            raise ModelError(
                f"{self.name}: a prompt of {length} tokens does not fit into its {self.context_tokens}; "
                "give fewer or shorter passages"
            )
        if prompt.prefill.strip().endswith("Reference"):
            choices = _cited(whole)
        elif whole.rstrip().endswith("Question:"):
            choices = _asked(whole)
        else:
            choices = _answers(whole)
        pick = 0
        if temperature:
            digest = hashlib.blake2b(f"{seed} {whole}".encode(), digest_size=4).digest()
            pick = int.from_bytes(digest, "little") % min(3, len(choices))
        text, finished = choices[pick], True
        words = list(_WORD.finditer(text))
        if len(words) > max_tokens:
            text, finished = text[: words[max_tokens].start()].rstrip() if max_tokens else "", False
        cuts = [at for s in stop if s and (at := text.find(s)) >= 0]
        if cuts:
            text, finished = text[: min(cuts)], True
        score = _unigram(whole, text)
        return Completion(text, score.tokens, score.logprob, finished)


def _answers(prompt: str) -> list[str]:
    """The sentences of the prompt's last passage, those nearest to its question first."""
    prompt = prompt.rpartition("Passage:")[2]
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(prompt) if _WORD.search(sentence)]
    asked = [sentence for sentence in sentences if sentence.endswith("?")]
    question = _content(asked[-1] if asked else (sentences[-1] if sentences else ""))
    others = [s for s in sentences if not s.endswith((":", "?")) and s != "Answer"]
    if len(others) > 1 and not asked:
        others.pop()
    return sorted(others, key=lambda s: -len(question & _content(s))) or [""]


def _cited(prompt: str) -> list[str]:
    """The number of the passage that shares most words with the question, and the answer in it."""
    *parts, question = re.split(r"^### (?:\d+|Question)\n", prompt, flags=re.MULTILINE)[1:] or [""]
    asked = _content(question)
    best = max(range(len(parts)), key=lambda i: len(asked & _content(parts[i])), default=None)
    if best is None or not asked & _content(parts[best]):
        return ["0\n\n### Answer\n"]
    return [f"{best + 1}\n\n### Answer\n{answer}" for answer in _answers(f"{parts[best]}\n{question}")]


def _asked(prompt: str) -> list[str]:
    """A question about each of the prompt's last sentences."""
    prompt = prompt.rpartition("Passage:")[2]
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(prompt) if len(_content(sentence)) > 1]
    told = [sentence for sentence in sentences if not sentence.endswith("?")][-3:]
    return [f"What about {' '.join([w for w in _words(s) if w not in _COMMON][:4])}?" for s in told] or [
        "What?"
    ]


def _unigram(prompt: str, completion: str) -> Score:
    seen = Counter(_words(prompt))
    total = sum(seen.values())
    logprob, words = 0.0, _words(completion)
    for word in words:
        share = seen[word] / total if total else 0.0
        logprob += math.log(0.5 * share + 0.5 / _VOCABULARY)
    return Score(logprob, len(words))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _content(text: str) -> set[str]:
    return set(_words(text)) - _COMMON
