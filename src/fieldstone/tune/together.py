"""Several processes tune together: each works through its share of a step, and their gradients are added up.

A launcher starts the same command in all of them, on one machine or several:

    torchrun --nproc-per-node 2 -m fieldstone.cli tune WORKSPACE
    accelerate launch --num_processes 2 -m fieldstone.cli tune WORKSPACE

The first process runs the command. The others wait until it tunes something, do their share of that, and wait
again; only the first one scores, writes and prints. The sum over the shares is the gradient of the whole
step, so the outcome is that of one process, but for the order in which numbers are added (and what dropout
strikes out). All must see the workspace's folder, and the models under the same names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from fieldstone.errors import WorkspaceError

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = timedelta(days=7)
"""How long the others wait for the first one, which takes the dev scores and asks the questions alone."""

BUCKET = 2**24
"""Numbers that are added up at a time: 64 MB."""

LAUNCHER = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_", "ACCELERATE_", "FSDP_",
)  # fmt: skip
"""Variables, and beginnings of some, by which libraries would see that they are not alone."""

_sharing = False


def join() -> None:
    """Meet the other processes that the launcher started; each then sees one GPU, where there are any.

    For the libraries in a process it is alone from then on: what is shared is shared here.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = str(local).split() if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = names[local % len(names)]
    both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(both, timeout=PATIENCE)
    for name in list(os.environ):
        if name.startswith(LAUNCHER):
            del os.environ[name]


@contextmanager
def together() -> Iterator[None]:
    """In the block all processes run the same, each its share."""
    global _sharing
    before, _sharing = _sharing, distributed.is_initialized()
    try:
        yield
    finally:
        _sharing = before


def size() -> int:
    """How many processes share the work."""
    return distributed.get_world_size() if _sharing else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if _sharing else 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Those of the items that this process works on."""
    return items[rank() :: size()]


def first_only(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them; the others wait for it."""
    if size() == 1:
        return make()
    box = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def one_after_another(make: Callable[[], T]) -> T:
    """What each process makes by itself, the first one before the others."""
    made = make() if rank() == 0 else None
    if size() > 1:
        distributed.barrier()
    return made if made is not None else make()


def same_everywhere(step: int, folder: object) -> None:
    """Raises WorkspaceError where not all go on from the same step: not all see the same folder."""
    if first_only(lambda: step) != step:
        raise WorkspaceError(
            f"the processes do not see the same {folder}; put the workspace where all machines see it"
        )


def total(number: float, device: Any) -> float:
    """The sum of a number over the processes."""
    if size() == 1:
        return number
    summed = torch.tensor(
        number, dtype=torch.float64 if str(device) == "cpu" else torch.float32, device=device
    )
    distributed.all_reduce(summed)
    return float(summed)


def most(number: int) -> int:
    """The greatest of the processes' numbers."""
    if size() == 1:
        return number
    numbers: list[int | None] = [None] * size()
    distributed.all_gather_object(numbers, number)
    return max(its for its in numbers if its is not None)


def add_up(parameters: Iterable[torch.nn.Parameter]) -> None:
    """The gradients of these parameters, each the sum of those of all processes; none counts as zeros.

    Those of divided parameters are sums already.
    """
    if size() == 1:
        return
    bucket: list[torch.Tensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) > BUCKET:
            _sum(bucket)
            bucket = []
    _sum(bucket)


def _sum(tensors: Sequence[torch.Tensor]) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, its in zip(tensors, parts, strict=True):
        tensor.copy_(its.view_as(tensor))


def shared_forward(forward: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """An encoder's forward pass over the texts of a step, each process reading its share of them.

    All get the vectors of all texts, so that any loss is computed as by one process; its gradient goes back
    into each process's share, and `add_up` makes the whole of the parts.
    """

    def of_all(features: dict[str, Any], **more: Any) -> dict[str, Any]:
        count = len(features["input_ids"])
        rows = list(share(range(count)))
        read = rows or [0]  # one without a share reads a text too, and gives nothing of it
        its = {
            name: value[read] if isinstance(value, torch.Tensor) and len(value) == count else value
            for name, value in features.items()
        }
        mine = forward(its, **more)["sentence_embedding"]
        vectors: torch.Tensor = _Gathered.apply(mine.float(), len(rows), count)  # type: ignore[no-untyped-call]
        return {**features, "sentence_embedding": vectors}

    return of_all


class _Gathered(torch.autograd.Function):
    """Rows of all processes, dealt out like cards, in order; the gradient of a process's own goes back."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor, held: int, count: int) -> torch.Tensor:
        ctx.held, ctx.shape = held, mine.shape
        piece = mine.new_zeros((math.ceil(count / size()), mine.shape[1]))
        piece[:held] = mine[:held]
        pieces = [torch.empty_like(piece) for _ in range(size())]
        distributed.all_gather(pieces, piece)
        return torch.stack(pieces, 1).flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        back = gradients[0].new_zeros(ctx.shape)
        back[: ctx.held] = gradients[0][rank() :: size()]
        return back, None, None


# -- the first process calls, the others follow


def everywhere(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a module in all processes; what it returns in this one, the first.

    What is called back (scores, progress) is called here alone.
    """
    if not distributed.is_initialized():
        return function(*args, **kwargs)
    theirs = {name: _nobody if callable(value) else value for name, value in kwargs.items()}
    distributed.broadcast_object_list([(function, args, theirs)], src=0)
    with together():
        return function(*args, **kwargs)


def follow() -> bool:
    """Do what the first process calls, until it has nothing more to call; False where it ended before."""
    while True:
        box: list[Any] = [None]
        try:
            distributed.broadcast_object_list(box, src=0)
        except RuntimeError:  # it is gone, and has said why
            return False
        if box[0] is None:
            distributed.destroy_process_group()
            return True
        function, args, kwargs = box[0]
        with together():
            function(*args, **kwargs)


def dismiss() -> None:
    """There is nothing more to call: the others end."""
    distributed.broadcast_object_list([None], src=0)
    distributed.destroy_process_group()


def _nobody(*_: object, **__: object) -> float:
    return 0.0
