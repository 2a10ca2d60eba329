"""fed-rag's RALT over rows on standard input; runs in fed-rag's environment, for fedrag_tune_speed.py.

Its own trainer, collator and template, with low-rank adapters as its `HFPeftModelGenerator` would have; what
it is to retrieve is given, a passage a question. Prints the seconds of training and the template.
"""

import json
import sys
import time

import torch
from datasets import Dataset
from fed_rag import NoEncodeRAGSystem
from fed_rag.base.no_encode_knowledge_store import BaseNoEncodeKnowledgeStore
from fed_rag.data_collators.huggingface.ralt import DEFAULT_EXAMPLE_TEMPLATE
from fed_rag.data_structures import KnowledgeNode, RAGConfig
from fed_rag.generators.huggingface import HFPretrainedModelGenerator
from fed_rag.trainers.huggingface import HuggingFaceTrainerForRALT
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments


def not_asked_for(*_):
    """What training needs not."""
    raise NotImplementedError


class Given(BaseNoEncodeKnowledgeStore):
    """Knows the passage of each question."""

    passages: dict[str, str]
    load_node = load_nodes = delete_node = clear = persist = load = batch_retrieve = not_asked_for

    def retrieve(self, query, top_k):
        """Its passage, once."""
        return [(1.0, KnowledgeNode(node_type="text", text_content=self.passages[query]))][:top_k]

    @property
    def count(self):
        """How many."""
        return len(self.passages)


def main():
    """Train, write the merged weights, say how long it took."""
    given = json.load(sys.stdin)
    torch.set_num_threads(given["threads"])
    generator = HFPretrainedModelGenerator(model_name=given["base"], load_model_kwargs={"device_map": "cpu"})
    generator.model = get_peft_model(generator.model, LoraConfig(task_type="CAUSAL_LM", **given["adapters"]))
    system = NoEncodeRAGSystem(
        generator=generator,
        knowledge_store=Given(passages={row["query"]: row["passage"] for row in given["rows"]}),
        rag_config=RAGConfig(top_k=1),
    )
    trainer = HuggingFaceTrainerForRALT(
        rag_system=system,
        train_dataset=Dataset.from_list(given["rows"]),
        training_arguments=TrainingArguments(
            output_dir=given["into"] + ".fed-rag", num_train_epochs=1, seed=given["seed"], use_cpu=True,
            save_strategy="no", report_to="none", disable_tqdm=True, **given["arguments"],
        ),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    generator.model.merge_and_unload().save_pretrained(given["into"])
    generator.tokenizer.unwrapped.save_pretrained(given["into"])
    print(json.dumps({"seconds": seconds, "template": DEFAULT_EXAMPLE_TEMPLATE}))


if __name__ == "__main__":
    main()
