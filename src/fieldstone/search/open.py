"""A workspace's indexes, opened for the searches that the settings ask for."""

from __future__ import annotations

from fieldstone import models as all_models
from fieldstone.library import Library
from fieldstone.models import Generator, Loader
from fieldstone.search import Index
from fieldstone.search.dense import DenseIndex
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import Store, open_store
from fieldstone.settings import Settings, StoreSettings
from fieldstone.workspace import Workspace


def open_index(
    workspace: Workspace,
    settings: Settings,
    generator: Generator | None = None,
    loader: Loader = all_models,
) -> Index:
    """What the searches need and no more: words alone load no model, a given generator is shared."""
    library, models, how = workspace.library(), settings.models, settings.search
    device, threads, engine = models.device, models.threads or None, models.engine
    dense = reranker = None
    if how.mode != "lexical":
        encoder = loader.load_encoder(models.encoder, device=device, threads=threads, engine=engine)
        url = "memory:" if how.store == "library" else how.store
        store = open_vectors(library, url, encoder.dimension, encoder.fingerprint, settings.store)
        dense = DenseIndex(library, encoder, store)
    if how.rerank == "likelihood" and generator is None:
        generator = loader.load_generator(models.generator, device=device, threads=threads, engine=engine)
    if how.rerank == "cross-encoder":
        reranker = loader.load_reranker(models.reranker, device=device, threads=threads)
    return Index(library, LexicalIndex(workspace.cache / "lexical", library), dense, generator, reranker)


def open_vectors(library: Library, url: str, dimension: int, encoder: str, settings: StoreSettings) -> Store:
    """The store at `url` for the library's vectors of the encoder of this fingerprint."""
    # the library's own: others may keep theirs, of the same encoder, in the same place
    return open_store(url, dimension, f"{library.id[:16]}-{encoder}", settings)


def index_for_another_thread(workspace: Workspace, index: Index) -> Index:
    """The same indexes over a connection of their own; they share encoder and vectors, and rerank nothing."""
    library = workspace.library()
    dense = index.dense.over(library) if index.dense else None
    return Index(library, LexicalIndex(workspace.cache / "lexical", library), dense)
