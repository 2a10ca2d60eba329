"""A reranker that reads question and text together: any sequence classifier of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fieldstone.models import Options
from fieldstone.models.batches import by_length
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import read_model, read_tokenizer
from fieldstone.models.tokens import framed

_BATCH_TOKENS = 8192


class CrossEncoder:
    """A `Reranker`: the logit of the only label, or of the last one where there are several.

    A model with a label "entailment" (natural language inference) gives the log-odds of that label: put to it
    as (premise, hypotheses), it says how surely the premise entails each. `entails` tells such a model.
    """

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        from transformers import AutoModelForSequenceClassification

        self._tokenizer = read_tokenizer(name, folder)
        loaded = read_model(name, folder, AutoModelForSequenceClassification, options)
        self._model, self._device = loaded.model, loaded.device
        positions = getattr(self._model.config, "max_position_embeddings", None) or 512
        self.max_tokens = int(min(self._tokenizer.model_max_length, positions, 8192))
        self._frame = framed(self._tokenizer, self.max_tokens)
        labels = [str(name).casefold() for _, name in sorted(self._model.config.id2label.items())]
        self.entails = len(labels) > 1 and "entailment" in labels
        self._label = labels.index("entailment") if self.entails else -1
        self._typed = "token_type_ids" in self._tokenizer.model_input_names
        self.name = name
        self.fingerprint = weights_fingerprint(folder, self.max_tokens, loaded.dtype, cache=options.cache)

    def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text; too long a pair is cut at the longer of the two."""
        import torch

        pairs = self._frame.encode_batch_fast([(question, text) for text in texts])
        scores = [0.0] * len(pairs)
        for batch in by_length([len(pair.ids) for pair in pairs], budget=_BATCH_TOKENS):
            width = len(pairs[batch[0]].ids)
            ids = torch.full((len(batch), width), self._tokenizer.pad_token_id or 0)
            mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
            for i, index in enumerate(batch):
                pair = pairs[index]
                ids[i, : len(pair.ids)] = torch.tensor(pair.ids)
                types[i, : len(pair.ids)] = torch.tensor(pair.type_ids)
                mask[i, : len(pair.ids)] = 1
            extra = {"token_type_ids": types.to(self._device)} if self._typed else {}
            with torch.inference_mode():
                out = self._model(
                    input_ids=ids.to(self._device), attention_mask=mask.to(self._device), **extra
                )
            logits = out.logits.float()
            wanted = logits[:, self._label]
            if self.entails:
                others = [label for label in range(logits.shape[1]) if label != self._label]
                wanted = wanted - logits[:, others].logsumexp(-1)
            for index, score in zip(batch, wanted.tolist(), strict=True):
                scores[index] = score
        return scores
