"""The work of the steps on the machines of a Ray: reading, splitting, embedding, rating and asking.

A step gives work and a stream of items, and takes what came of them in the same order (`fieldstone.spread`).
Ray Data does that: a dataset of as many items as fit a `WINDOW`, a block for each, mapped by a pool of
actors, one a processor or GPU, that keep the work's models as long as the dataset lasts. Items are batches
that the steps make up, on one machine as on many, so what comes of them is the same too. All that a worker
needs is in the work and the item: contents instead of paths, and of a model its name. An actor that dies is
started again by Ray, and its batch is done again.

What is no stream of items stays where the command runs: the tuning, the library and the indexes, which one
process writes. Models are loaded there too, and those of the workers held against them.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import platform
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

import fieldstone
from fieldstone import models
from fieldstone.errors import ClusterError, FieldstoneError, MissingExtra, ModelError
from fieldstone.models import Encoder, Generator, Reranker
from fieldstone.models.towers import passage_model
from fieldstone.spread import Item, Made, batches

Model = TypeVar("Model", Encoder, Reranker, Generator)

WINDOW = 512 << 20
"""Bytes of items that are given to Ray at once, so that it need not hold all of them."""

DEATHS = 3
"""So many times a batch is done again when its worker dies; then it is taken for the cause."""


@contextmanager
def connected(address: str) -> Iterator[Machines]:
    """The machines of the Ray at `address`: HOST:PORT of its head, `auto`, or `local`, which starts one.

    Raises MissingExtra, or ClusterError where no Ray answers. One that was started ends with the context.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what Ray Data itself does
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "ray", "ray") from None
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address}: Ray Data does not work over Ray's client; type the command on a machine of the "
            "cluster, with --ray auto"
        )
    _knock(address)
    try:
        with _hushed():
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unanswered(address, error) from None
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it has to say is raised as well
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        with redirect_stdout(sys.stderr):  # where Ray tells of a worker's death
            yield Machines()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise ClusterError at once where nobody listens at an address: Ray would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            raise _unanswered(address, error) from None


def _unanswered(address: str, error: Exception) -> ClusterError:
    line = str(error).strip().partition("\n")[0]
    return ClusterError(
        f"no Ray answers at {address}: {line}; to start one, type: ray start --head; "
        "for one that wants a token, set RAY_AUTH_MODE=token"
    )


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing comes out on standard error, where Ray says in C++ that it heeds the level of its log."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True, slots=True)
class _Named:
    """A model on its way: what it is loaded by, and the fingerprint that it must have."""

    kind: str
    name: str
    device: str
    threads: int | None
    engine: str
    fingerprint: str

    def load(self) -> Any:
        """The model. Raises ModelError where it cannot be had, or is another one."""
        load = getattr(models, f"load_{self.kind}")
        try:
            model = load(self.name, device=self.device, threads=self.threads, engine=self.engine)
        except ModelError as error:
            raise ModelError(
                f"{platform.node()}, a machine of the Ray: {error}. What is a folder or was fetched here has "
                "to be there too, a folder at the same path; without --ray the same command goes on here"
            ) from None
        if model.fingerprint != self.fingerprint:
            raise ModelError(
                f"{self.name} is not the same on {platform.node()}, a machine of the Ray: other weights, or "
                "another number type, as other processors compute in; take machines that are alike"
            )
        return model


class Machines:
    """The machines of a Ray that is connected: loads models as `fieldstone.models` does, and spreads work."""

    def __init__(self) -> None:
        self._loaded: list[tuple[ref[Any], _Named]] = []

    def load_encoder(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Encoder:
        """The encoder called `name`; of two towers the machines need that of the passages alone."""
        encoder = models.load_encoder(name, device=device, threads=threads, engine=engine)
        return self._noted(encoder, "encoder", passage_model(name), device, threads, engine)

    def load_reranker(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Reranker:
        """The reranker called `name`."""
        reranker = models.load_reranker(name, device=device, threads=threads, engine=engine)
        return self._noted(reranker, "reranker", name, device, threads, engine)

    def load_generator(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Generator:
        """The generator called `name`."""
        generator = models.load_generator(name, device=device, threads=threads, engine=engine)
        return self._noted(generator, "generator", name, device, threads, engine)

    def spread(self, work: Callable[[Item], Made], items: Iterable[Item], /) -> Iterator[Made]:
        """What came of each item, in order.

        What the work raises of Fieldstone's own errors is raised here, ClusterError where the machines fail.
        """
        packed = _Packed.of(work, self._known)
        for window in batches(map(pickle.dumps, items), len, WINDOW):
            for made in _mapped(packed, window):
                if isinstance(made, FieldstoneError):
                    raise made
                yield made

    def _noted(
        self, model: Model, kind: str, name: str, device: str, threads: int | None, engine: str
    ) -> Model:
        folder = Path(name).expanduser()
        name = str(folder.resolve()) if folder.is_dir() else name
        named = _Named(kind, name, device, threads, engine, model.fingerprint)
        self._loaded = [(its, other) for its, other in self._loaded if its() is not None]
        self._loaded.append((ref(model), named))
        return model

    def _known(self, thing: object) -> _Named | None:
        alive = ((its(), named) for its, named in self._loaded)
        return next((named for model, named in alive if model is not None and model is thing), None)


@dataclass(frozen=True, slots=True)
class _Packed:
    """Work as it travels: pickled, with the names of models in their place; what one worker of it takes."""

    work: bytes
    version: str
    threads: int
    gpus: int

    @classmethod
    def of(cls, work: object, known: Callable[[object], _Named | None]) -> _Packed:
        """The work packed; `known` says how a model is loaded, and nothing of what is no model."""
        names: list[_Named] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, thing: object) -> _Named | None:
                named = known(thing)
                if named is not None:
                    names.append(named)
                return named

        file = io.BytesIO()
        Pickler(file).dump(work)
        threads = max((named.threads or 1 for named in names), default=1)
        return cls(file.getvalue(), fieldstone.__version__, threads, int(any(map(_on_gpu, names))))

    def open(self) -> Callable[[Any], Any]:
        """The work, its models loaded."""
        if self.version != fieldstone.__version__:
            raise ClusterError(
                f"fieldstone is {self.version} here and {fieldstone.__version__} on {platform.node()}, a "
                "machine of the Ray; install the same on all"
            )

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, named: _Named) -> Any:
                return named.load()

        work: Callable[[Any], Any] = Unpickler(io.BytesIO(self.work)).load()
        return work


def _on_gpu(named: _Named) -> bool:
    from fieldstone.models.devices import pick_device

    return pick_device(named.device).name.startswith("cuda")


class _Worker:
    """What an actor of the pool does: it opens the work once, and does it on one item after the other."""

    def __init__(self, packed: _Packed) -> None:
        self._packed = packed
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, batch: Any) -> dict[str, list[bytes]]:
        """The item's bytes to those of what came of it, which may be an error."""
        (item,) = batch["item"]
        try:
            self._work = self._work or self._packed.open()
            made = self._work(pickle.loads(item))
        except FieldstoneError as error:
            made = error
        return {"made": [pickle.dumps(made)]}


def _mapped(packed: _Packed, items: list[bytes]) -> Iterator[Any]:
    import ray.data

    have = ray.cluster_resources()
    workers = int(have.get("CPU", 1)) // packed.threads
    if packed.gpus:
        workers = min(workers, int(have.get("GPU", 0)))
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    pool = ray.data.ActorPoolStrategy(
        size=max(1, min(workers, len(items))),
        max_tasks_in_flight_per_actor=1,  # what is there first must not take what the others could begin with
    )
    with warnings.catch_warnings(action="ignore", category=ray.util.annotations.RayDeprecationWarning):
        made = rows.map_batches(  # `max_task_retries` is to go without a successor: pyproject.toml bounds ray
            _Worker,
            fn_constructor_args=(packed,),
            batch_size=1,
            compute=pool,
            num_cpus=packed.threads,
            num_gpus=packed.gpus,
            max_task_retries=DEATHS,
        )
    try:
        for row in made.iter_rows():
            yield pickle.loads(row["made"])
    except ray.exceptions.UserCodeException:
        raise  # a fault of ours: its traceback is wanted
    except ray.exceptions.RayError as error:
        line = str(error).strip().partition("\n")[0]
        raise ClusterError(
            f"the machines of the Ray cannot do it ({line}); each needs fieldstone {packed.version} with the "
            f"extra ray, and memory for its work: what ended {DEATHS + 1} workers is not tried again"
        ) from None
