"""What every generator checks before it begins."""

from __future__ import annotations

from fieldstone.errors import ModelError


def check_request(max_tokens: int, temperature: float) -> None:
    """ModelError for a request that makes no sense."""
    if max_tokens < 0:
        raise ModelError(f"max_tokens must be 0 or more, not {max_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ModelError(f"temperature must be 0 or more, not {temperature}")
