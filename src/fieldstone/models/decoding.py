"""Writing token by token: the choice of a token, stop strings, exact log-probabilities. For any model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch

from fieldstone.models import Completion, Heard
from fieldstone.models.tokens import Tokens

# (rows of the last step that go on, their new tokens) -> logits (rows, vocabulary) of the next step
Advance = Callable[[list[int], list[int]], torch.Tensor]


class Writing:
    """One completion in the making."""

    def __init__(
        self, tokens: Tokens, limit: int, stop: Sequence[str], ends: frozenset[int], seed: int | None
    ) -> None:
        self._tokens, self.limit, self._stop, self._ends = tokens, limit, [s for s in stop if s], ends
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self.text = ""
        self.done = limit < 1
        self._finished = False
        self.random = None if seed is None else torch.Generator().manual_seed(seed)

    def add(self, token: int, logprob: float) -> None:
        """Takes the next token: it ends the text, completes a stop string, or adds to the text."""
        if token in self._ends:
            self.done = self._finished = True
            return
        self._ids.append(token)
        self._logprobs.append(logprob)
        self.text = self._tokens.decode(self._ids)
        at = min((found for s in self._stop if (found := self.text.find(s)) >= 0), default=-1)
        if at >= 0:
            # the tokens that it takes to cover the text before the stop string; no others count
            needed = next(
                n for n in range(len(self._ids) + 1) if len(self._tokens.decode(self._ids[:n])) >= at
            )
            del self._ids[needed:], self._logprobs[needed:]
            self.text = self.text[:at]
            self.done = self._finished = True
        elif len(self._ids) >= self.limit:
            self.done = True

    @property
    def settled(self) -> int:
        """How many characters no later token can change: the rest may yet be cut, or is half a character."""
        if self.done:
            return len(self.text)
        end = len(self.text.rstrip("\ufffd"))
        for stop in self._stop:
            for size in range(min(len(stop) - 1, end), 0, -1):
                if self.text.startswith(stop[:size], end - size):
                    end -= size
                    break
        return end

    def completion(self) -> Completion:
        """What was written. The log-probability is that of the text's tokens, without the end of text."""
        return Completion(self.text, len(self._ids), sum(self._logprobs), self._finished)


def tell(heard: Heard | None, rows: Sequence[Writing], places: Sequence[int]) -> None:
    """Tell `heard`, if there is one, what is certain in the rows at these places."""
    if heard is not None:
        for place in places:
            heard(place, rows[place].text[: rows[place].settled])


def write(
    first: torch.Tensor, advance: Advance, rows: Sequence[Writing], temperature: float
) -> Iterator[None]:
    """Fills the rows, step by step, from the logits (rows, vocabulary) of the first; done rows drop out."""
    alive = list(rows)
    logits = first
    while True:
        going, chosen = [], []
        for i, (token, logprob) in enumerate(_choose(logits, alive, temperature)):
            if not alive[i].done:
                alive[i].add(token, logprob)
            if not alive[i].done:
                going.append(i)
                chosen.append(token)
        yield
        if not going:
            return
        logits = advance(going, chosen)
        alive = [alive[i] for i in going]


def _choose(logits: torch.Tensor, rows: Sequence[Writing], temperature: float) -> list[tuple[int, float]]:
    """A token a row and its log-probability under the model itself (at temperature 1)."""
    logprobs = logits.float().log_softmax(-1)
    if temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        shares = (logprobs / temperature).softmax(-1).cpu()
        tokens = torch.cat(
            [
                torch.multinomial(share, 1, generator=row.random)
                for share, row in zip(shares, rows, strict=True)
            ]
        ).to(logprobs.device)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return list(zip(tokens.tolist(), chosen.tolist(), strict=True))


def seeds(seed: int, prompts: Sequence[Sequence[int]], temperature: float) -> list[int | None]:
    """A seed a prompt, from its tokens and how often it came before: no other prompt of a batch matters."""
    if temperature == 0:
        return [None] * len(prompts)
    times: dict[bytes, int] = {}
    result: list[int | None] = []
    for prompt in prompts:
        key = repr((seed, *prompt)).encode()
        times[key] = times.get(key, 0) + 1
        digest = hashlib.blake2b(key + b"#%d" % times[key], digest_size=8).digest()
        result.append(int.from_bytes(digest, "little") >> 1)
    return result
