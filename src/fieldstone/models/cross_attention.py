"""What a decoder attends to, read before the softmax, which transformers does not give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fieldstone.errors import ModelError

_NAMES = ("EncDecAttention", "encoder_attn")
"""What T5 and BART, and those built like them, call the attention of decoder to encoder."""


def attention_to_parts(
    model: Any,
    states: torch.Tensor,
    seen: torch.Tensor,
    start: torch.Tensor,
    lengths: Sequence[Sequence[int]],
) -> list[tuple[float, ...]]:
    """For each prompt the mean score of each of its parts, seen from the last token of `start`.

    `states` (prompts, tokens, width) and `seen` as from `joined_states`, `start` (prompts, n) the decoder's
    input, `lengths` the tokens of each part. The score of a token is the product of query and key, scaled
    as the model scales it, as a mean over heads and layers. Raises ModelError for a model without
    such layers.
    """
    layers = [module for name, module in model.named_modules() if name.endswith(_NAMES)]
    if not layers:
        kind = type(model).__name__
        raise ModelError(f"{kind} has no cross-attention that can be read here; give a T5 or a BART")
    queries: list[torch.Tensor] = []
    keys: list[torch.Tensor] = []

    def keep(found: list[torch.Tensor]) -> Any:
        return lambda _module, _read, made: found.append(made)

    hooks = []
    for layer in layers:
        query, key = (layer.q, layer.k) if hasattr(layer, "q") else (layer.q_proj, layer.k_proj)
        hooks += [query.register_forward_hook(keep(queries)), key.register_forward_hook(keep(keys))]
    try:
        model(encoder_outputs=(states,), attention_mask=seen, decoder_input_ids=start, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    total = torch.zeros(seen.shape, dtype=torch.float32, device=states.device)
    for layer, query, key in zip(layers, queries, keys, strict=True):
        heads = layer.n_heads if hasattr(layer, "n_heads") else layer.num_heads
        # the product over the whole width is the sum of those of the heads
        product = torch.einsum("nd,ntd->nt", query[:, -1].float(), key.float())
        total += product * layer.scaling / (heads * len(layers))
    return [
        tuple(part.mean().item() for part in row[: sum(its)].split(list(its)))
        for row, its in zip(total, lengths, strict=True)
    ]
