"""What every generator checks before it begins."""

from __future__ import annotations

from fieldstone.errors import ModelError
from fieldstone.models import Prompt


def check_request(max_tokens: int, temperature: float) -> None:
    """ModelError for a request that makes no sense."""
    if max_tokens < 0:
        raise ModelError(f"max_tokens must be 0 or more, not {max_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ModelError(f"temperature must be 0 or more, not {temperature}")


def refuse_passages(name: str, prompt: Prompt) -> None:
    """ModelError for passages that are to be read apart, from a model that reads one text."""
    if prompt.passages:
        raise ModelError(
            f"{name} cannot read {len(prompt.passages)} passages apart, as answer.reading = fid asks; "
            "give an encoder-decoder such as T5 or BART, or set answer.reading = auto"
        )
