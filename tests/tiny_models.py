"""Tiny random models with real tokenizers, saved as any folder is, for the tests of the models seam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = [
    "The harbour opens at six in the morning and closes at ten in the evening.",
    "Passage: cats purr. Question: why do cats purr? Answer: because they are content.",
    "A pilot boards every vessel longer than eighty metres, and the harbour master is told by radio.",
    "Übergröße, naïve café, 日本語, 12345 + 678.",
] * 4

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(specials: list[str], template: str | None = None) -> Any:
    """A byte-level BPE tokenizer, like GPT-2's, with an optional frame of special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if template:
        ids = [(token, tokenizer.token_to_id(token)) for token in specials]
        pair = f"{template} {template.replace('$A', '$B')}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=pair, special_tokens=ids
        )
    return tokenizer


def _save(folder: Path, model: Any, tokenizer: Any, **names: str) -> Path:
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    chat = names.pop("chat_template", None)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)
    if chat:
        fast.chat_template = chat
    fast.save_pretrained(folder)
    return folder


def llama(folder: Path, *, chat: bool = True, **changes: Any) -> Path:
    """A causal model of two layers with grouped keys."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    config.update(changes)
    names = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}
    if chat:
        names["chat_template"] = CHAT
    return _save(folder, LlamaForCausalLM(config), tokenizer, **names)


def qwen2(folder: Path) -> Path:
    """A causal model like Llama with biases, and heads of a size of their own."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # they begin as zeros
            torch.nn.init.normal_(weight)
    return _save(folder, model, tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def gemma2(folder: Path, *, window: int = 8) -> Path:
    """A causal model with a sliding window of so many tokens in every other layer, and capped logits."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = Gemma2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=window,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _save(
        folder, Gemma2ForCausalLM(config), tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def bloom(folder: Path) -> Path:
    """A causal model that knows places by distance alone (ALiBi)."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = BloomConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, n_layer=2, n_head=4)
    return _save(
        folder, BloomForCausalLM(config), tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def t5(folder: Path, **changes: Any) -> Path:
    """T5: relative positions, no opening token."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = byte_level(["<pad>", "</s>"], "$A </s>")
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=2.0,
    )
    config.update(changes)
    return _save(folder, T5ForConditionalGeneration(config), tokenizer, eos_token="</s>", pad_token="<pad>")


def bart(folder: Path, **changes: Any) -> Path:
    """BART: learned positions, an opening token that is forced."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = byte_level(["<s>", "<pad>", "</s>"], "<s> $A </s>")
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
        init_std=0.3,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    config.update(changes)
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = 0
    model.generation_config.forced_eos_token_id = None
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return _save(folder, model, tokenizer, **names)


def _bert_parts() -> tuple[Any, dict[str, Any], dict[str, str]]:
    tokenizer = byte_level(["[PAD]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]")
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
    }
    return tokenizer, sizes, {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def bert(folder: Path) -> Path:
    """A plain encoder, without modules.json."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer, sizes, names = _bert_parts()
    return _save(folder, BertModel(BertConfig(**sizes)), tokenizer, **names)


def cross_encoder(folder: Path) -> Path:
    """A sequence classifier with one label."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer, sizes, names = _bert_parts()
    model = BertForSequenceClassification(BertConfig(**sizes, num_labels=1))
    return _save(folder, model, tokenizer, **names)


def entailment(folder: Path) -> Path:
    """A classifier of natural language inference, whose label in the middle is the one that counts."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer, sizes, names = _bert_parts()
    labels = dict(enumerate(("contradiction", "ENTAILMENT", "neutral")))
    model = BertForSequenceClassification(BertConfig(**sizes, id2label=labels))
    return _save(folder, model, tokenizer, **names)


def dpr(folder: Path) -> tuple[Path, Path]:
    """DPR's two halves: question/ and passage/."""
    import torch
    from transformers import DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    torch.manual_seed(0)
    tokenizer, sizes, names = _bert_parts()
    question = _save(folder / "question", DPRQuestionEncoder(DPRConfig(**sizes)), tokenizer, **names)
    passage = _save(folder / "passage", DPRContextEncoder(DPRConfig(**sizes)), tokenizer, **names)
    return question, passage
