"""How well the searches rank: Cranfield (1,400 abstracts, 225 questions), a folder in the BEIR layout.

One passage a document, so nothing here measures splitting; the encoder cuts what is longer than it reads.
Intervals are of 95 %, once drawn by question and once by the paper that a question comes from, where
`qrels/source_code_minus1.tsv` names it: questions of one paper resemble one another. Every mean is
checked against ir_measures (trec_eval) in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import combinations
from pathlib import Path

import ir_measures

from fieldstone.evaluate.benchmarks.beir import read_beir, read_qrels
from fieldstone.evaluate.benchmarks.benchmark import Benchmark
from fieldstone.evaluate.benchmarks.library import put
from fieldstone.evaluate.measures.ranking import ndcg_at, recall_at
from fieldstone.evaluate.statistics.bootstrap import Estimate, bootstrap_mean, paired_difference
from fieldstone.library import Library
from fieldstone.models import load_encoder
from fieldstone.search import Index, search
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.settings import SearchSettings
from machine import begin, data, table

SYSTEMS = {
    "lexical": SearchSettings(mode="lexical", rerank="none"),
    "dense": SearchSettings(mode="dense", rerank="none"),
    "fused (scores)": SearchSettings(mode="fused", fusion="scores", rerank="none"),
    "fused (rrf)": SearchSettings(mode="fused", fusion="rrf", rerank="none"),
}
MEASURES = {"nDCG@10": ir_measures.nDCG @ 10, "recall@10": ir_measures.R @ 10}

Judgements = dict[str, dict[str, float]]


def main() -> None:
    """Index the collection, ask all questions of each system, print means and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "folder", "cranfield")
    parser.add_argument("--encoder", default="embedded:minilm")
    arguments = begin(parser)
    read = read_beir(arguments.folder)
    queries = {question.id: question.question for question in read.questions}
    judged = {query: dict(read.grades[query]) for query in queries}
    asked = sorted(judged, key=int)
    origins = arguments.folder / "qrels" / "source_code_minus1.tsv"
    papers: Judgements = {}
    for query, paper, grade in read_qrels(origins, []) if origins.exists() else ():
        papers.setdefault(query, {})[paper] = grade
    clusters = ["/".join(papers.get(query, {f"question {query}": 0})) for query in asked]

    with tempfile.TemporaryDirectory() as folder:
        index, names = _build(Path(folder), read, arguments.encoder, arguments.threads)
        print(f"{len(asked)} questions of {len(set(clusters))} papers; empty documents stay unfindable\n")
        ran = {}
        for name, settings in SYSTEMS.items():
            found = search(index, [queries[query] for query in asked], settings, k=10)
            ran[name] = [[names[hit.passage.document_id] for hit in hits] for hits in found]

    values = {name: _measured(asked, rankings, judged) for name, rankings in ran.items()}
    rows = []
    for name, by_measure in values.items():
        for measure, its in by_measure.items():
            plain, clustered = bootstrap_mean(its, asked), bootstrap_mean(its, clusters)
            oracle = _oracle(MEASURES[measure], asked, ran[name], judged)
            assert plain is not None
            assert abs(plain.value - oracle) < 1e-9, f"{name} {measure}: {plain.value}, ir_measures {oracle}"
            rows.append([f"{name} {measure}", f"{plain.value:.4f}", _range(plain, ""), _range(clustered, "")])
    table(["system", "mean", "by question", "by paper"], rows)
    rows = []
    for a, b in combinations(values, 2):
        first, second = values[a]["nDCG@10"], values[b]["nDCG@10"]
        plain, clustered = (paired_difference(second, first, by) for by in (asked, clusters))
        assert plain is not None
        rows.append([f"{b} - {a}, nDCG@10", f"{plain.value:+.4f}", _range(plain), _range(clustered)])
    table(["difference, paired", "mean", "by question", "by paper"], rows)
    print(f"checked: all {len(SYSTEMS) * len(MEASURES)} means equal those of ir_measures to 1e-9")


def _build(folder: Path, read: Benchmark, encoder_name: str, threads: int) -> tuple[Index, dict[str, str]]:
    """A library of one passage a document, indexed; and document id -> the collection's number."""
    library = Library(folder / "library.db", create=True)
    put(library, read)
    texts = library.passage_texts()
    names = {document.id: document.source for document in read.documents}
    encoder = load_encoder(encoder_name, threads=threads)
    sizes = encoder.count_tokens(list(texts.values()))
    long = sum(size > encoder.max_tokens - 2 for size in sizes)
    began = time.perf_counter()
    embed_library(library, encoder)
    print(f"{len(names)} documents, {long} of them cut to the {encoder.max_tokens} tokens that ", end="")
    print(f"{encoder.name} reads, embedded in {time.perf_counter() - began:.1f} s")
    dense = DenseIndex(library, encoder, open_store("memory:", encoder.dimension, encoder.fingerprint))
    return Index(library, LexicalIndex(folder / "lexical", library), dense), names


def _measured(
    asked: list[str], rankings: list[list[str]], judged: Judgements
) -> dict[str, list[float | None]]:
    relevant = [[{id_} for id_, grade in judged[query].items() if grade > 0] for query in asked]
    return {
        "nDCG@10": [ndcg_at(10, r, judged[query]) for query, r in zip(asked, rankings, strict=True)],
        "recall@10": [recall_at(10, r, wanted) for r, wanted in zip(rankings, relevant, strict=True)],
    }


def _oracle(
    measure: ir_measures.Measure, asked: list[str], rankings: list[list[str]], judged: Judgements
) -> float:
    qrels = {query: {id_: int(grade) for id_, grade in its.items()} for query, its in judged.items()}
    run = {q: {id_: -float(i) for i, id_ in enumerate(r)} for q, r in zip(asked, rankings, strict=True)}
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])


def _range(estimate: Estimate | None, sign: str = "+") -> str:
    return f"{estimate.low:{sign}.4f} {estimate.high:{sign}.4f}" if estimate else "-"


if __name__ == "__main__":
    main()
