"""Texts to unit vectors with a transformer: sentence-transformers folders, plain encoders, DPR halves.

Without sentence-transformers, which would cost three seconds of import more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldstone.models import Options, Vectors
from fieldstone.models.batches import by_length
from fieldstone.models.described import describe
from fieldstone.models.devices import pick_engine
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import Loaded, explained, place, read_model
from fieldstone.models.pooling import pool, read_dense, read_layout
from fieldstone.models.tokens import Tokens, framed

_BATCH_TOKENS = 8192
_CACHED_TOKENS = 1024  # of a batch, for each core: what lies between the products stays in its cache
_DPR = ("DPRQuestionEncoder", "DPRContextEncoder")  # AutoModel would read both as the question's half


class TransformerEncoder:
    """An `Encoder` over a transformers folder.

    DPR and other dot-product encoders are normalised too: similarity is the cosine everywhere here.
    """

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        from torch import get_num_threads

        layout = read_layout(folder)
        described = describe(name, layout.transformer, options.cache)
        config, self._tokenizer = described.config, described.tokenizer
        self._pooler = (config.architectures or [""])[0] in _DPR
        loaded = _read(name, layout.transformer, config, options)
        self._states, self._device = loaded.model, loaded.device
        self._budget = _CACHED_TOKENS * get_num_threads() if loaded.device == "cpu" else _BATCH_TOKENS
        self._dense = [read_dense(path).to(loaded.device) for path in layout.dense]
        self._modes = ("pooler",) if self._pooler else layout.modes
        self._lower = layout.lower

        own, theirs = options.query_prefix, options.passage_prefix
        self.query_prefix = layout.query_prefix if own is None else own
        self.passage_prefix = layout.passage_prefix if theirs is None else theirs
        self.name = name
        self.max_tokens = _max_tokens(
            layout.max_tokens, self._tokenizer, config, getattr(loaded.model, "first_position", 0)
        )
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
        return self._tokens.count(texts)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        order: dict[str, int] = {}
        rows = [order.setdefault(text.lower() if self._lower else text, len(order)) for text in texts]
        ids = [encoding.ids for encoding in self._frame.encode_batch_fast(list(order))]
        vectors: Vectors | None = None
        for batch in by_length([len(i) for i in ids], budget=self._budget, most=256):
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


def _read(name: str, folder: Path, config: Any, options: Options) -> Loaded:
    """What makes states of token ids and their mask, by the engine asked for."""
    from fieldstone.models import lean_bert
    from fieldstone.models.weights import Weights

    device, dtype = place(options)
    if pick_engine(name, options.engine, lean_bert.refusal(folder, config, device)) == "lean":
        with explained(name, "weights"):
            model = lean_bert.LeanBert(config, Weights(name, folder, dtype, inside=lean_bert.INSIDE))
            return Loaded(model, device, dtype)
    loaded = read_model(name, folder, _family(config), options, may_lack=("pooler",))
    return Loaded(_Transformer(loaded.model, (config.architectures or [""])[0] in _DPR), device, dtype)


def _family(config: Any) -> Any:
    """The class of transformers to load."""
    import transformers

    architecture = (config.architectures or [""])[0]
    if architecture in _DPR:
        return getattr(transformers, architecture)
    if config.is_encoder_decoder:  # T5 and its kin: the encoder alone
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


class _Transformer:
    """A model of transformers: token ids and their mask to the last states, or to what DPR pools."""

    def __init__(self, model: Any, pooler: bool) -> None:
        self._model, self._pooler = model, pooler
        padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        # RoBERTa and MPNet count their positions from behind the padding id
        self.first_position = 0 if padding is None else padding + 1

    def __call__(self, ids: Any, mask: Any) -> Any:
        out = self._model(input_ids=ids, attention_mask=mask)
        return out.pooler_output if self._pooler else out.last_hidden_state


def _max_tokens(said: int | None, tokenizer: Any, config: Any, first_position: int) -> int:
    """The shortest of what the folder, the tokenizer and the positions allow; special tokens count."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [said, tokenizer.model_max_length, positions and positions - first_position]
    return int(min((n for n in limits if n and 0 < n < 1_000_000), default=512))
