"""Texts to unit vectors with a transformer: sentence-transformers folders, plain encoders, DPR halves.

Straight on transformers: sentence-transformers would cost three seconds of import more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldstone.models import Options, Vectors
from fieldstone.models.batches import by_length
from fieldstone.models.devices import pick_engine
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import Loaded, read_config, read_model, read_tokenizer
from fieldstone.models.pooling import pool, read_dense, read_layout
from fieldstone.models.tokens import Tokens, framed

_BATCH_TOKENS = 8192
_DPR = ("DPRQuestionEncoder", "DPRContextEncoder")  # AutoModel would read both as the question's half


class TransformerEncoder:
    """An `Encoder` over a transformers folder.

    DPR and other dot-product encoders are normalised too: similarity is the cosine everywhere here.
    """

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        layout = read_layout(folder)
        config = read_config(name, layout.transformer)
        self._tokenizer = read_tokenizer(name, layout.transformer)
        family, self._pooler = _family(config)
        loaded = read_model(name, layout.transformer, family, options, may_lack=("pooler",))
        self._states, self._device = _states(name, loaded, self._pooler, options.engine), loaded.device
        self._dense = [read_dense(path).to(loaded.device) for path in layout.dense]
        self._modes = ("pooler",) if self._pooler else layout.modes
        self._lower = layout.lower

        own, theirs = options.query_prefix, options.passage_prefix
        self.query_prefix = layout.query_prefix if own is None else own
        self.passage_prefix = layout.passage_prefix if theirs is None else theirs
        self.name = name
        self.max_tokens = _max_tokens(layout.max_tokens, self._tokenizer, loaded.model)
        self._frame = framed(self._tokenizer, self.max_tokens)
        self._tokens = Tokens(self._tokenizer)
        self.dimension = int(self._encode(["a"]).shape[1])
        prefixes = (self.query_prefix, self.passage_prefix)
        self.weights = weights_fingerprint(folder, cache=options.cache)
        self.fingerprint = weights_fingerprint(
            folder, *self._modes, *prefixes, self._lower, self.max_tokens, loaded.dtype, cache=options.cache
        )

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        return self._encode([self.query_prefix + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage."""
        return self._encode([self.passage_prefix + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and prefixes."""
        return [len(ids) for ids in self._tokens.encode(texts)]

    def _encode(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        order: dict[str, int] = {}
        rows = [order.setdefault(text.lower() if self._lower else text, len(order)) for text in texts]
        ids = [encoding.ids for encoding in self._frame.encode_batch(list(order))]
        vectors: Vectors | None = None
        for batch in by_length([len(i) for i in ids], budget=_BATCH_TOKENS, most=256):
            part = self._forward([ids[i] for i in batch])
            if vectors is None:
                vectors = np.empty((len(ids), part.shape[1]), np.float32)
            vectors[batch] = part
        assert vectors is not None  # there is at least one text
        return vectors[rows]

    def _forward(self, rows: list[list[int]]) -> Vectors:
        import torch

        width = max(1, max(len(row) for row in rows))
        ids = torch.full((len(rows), width), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : max(1, len(row))] = 1  # a text without any token still has a vector
        with torch.inference_mode():
            mask = mask.to(self._device)
            states = self._states(ids.to(self._device), mask)
            vectors = states.float() if self._pooler else pool(states, mask, self._modes)
            for dense in self._dense:
                vectors = dense(vectors)
            result: Vectors = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return result


def _family(config: Any) -> tuple[Any, bool]:
    """The class to load, and whether it pools by itself."""
    import transformers

    architecture = (config.architectures or [""])[0]
    if architecture in _DPR:
        return getattr(transformers, architecture), True
    if config.is_encoder_decoder:  # T5 and its kin: the encoder alone
        return transformers.AutoModelForTextEncoding, False
    return transformers.AutoModel, False


def _states(name: str, loaded: Loaded, pooler: bool, engine: str) -> Callable[[Any, Any], Any]:
    """Token ids and their mask to the last states (or what the model pools), by the engine asked for."""
    from fieldstone.models import lean_bert

    model = loaded.model
    if pick_engine(name, engine, lean_bert.refusal(model, loaded.device)) == "lean":
        return lean_bert.LeanBert(model)

    def states(ids: Any, mask: Any) -> Any:
        out = model(input_ids=ids, attention_mask=mask)
        return out.pooler_output if pooler else out.last_hidden_state

    return states


def _max_tokens(said: int | None, tokenizer: Any, model: Any) -> int:
    """The shortest of what the folder, the tokenizer and the positions allow; special tokens count."""
    limits = [said, tokenizer.model_max_length]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa and MPNet count their positions from behind the padding id
        offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        limits.append(positions - (0 if offset is None else offset + 1))
    return int(min((n for n in limits if n and 0 < n < 1_000_000), default=512))
