"""Tuning: candidates for retriever, reranker and generator, a package each."""
