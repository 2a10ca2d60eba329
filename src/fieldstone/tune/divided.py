"""A model whose weights lie in several processes, a part in each (FSDP): for one that fits into no one GPU.

A layer is put together when its turn comes and taken apart again; gradients and the optimizer's state are
divided like the weights. What is kept on disk is whole, and can be gone on with by any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from fieldstone.tune import together

T = TypeVar("T")


def divide(model: Any) -> None:
    """Divide the model among the processes, layer by layer; gradients are added up over them as they come."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(plain._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    mesh = init_device_mesh(model.device.type, (together.size(),))
    for part in (*layers, model):
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)  # a sum: each process's loss is its share of the whole step's
        part.set_force_sum_reduction_for_comms(True)


def is_divided(model: torch.nn.Module) -> bool:
    """Whether its weights lie in several processes."""
    return isinstance(next(model.parameters()), DTensor)


def evened(parts: Sequence[list[int]]) -> list[list[int]]:
    """The parts, and empty ones, so that all processes have as many: all must put the layers together."""
    return [*parts, *([] for _ in range(together.most(len(parts)) - len(parts)))]


def whole(value: T) -> T:
    """The same with every divided tensor in it put together, in the first process; all must ask."""
    if isinstance(value, DTensor):
        put_together = value.full_tensor()
        return put_together.cpu() if together.rank() == 0 else None  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {key: whole(its) for key, its in value.items()}  # type: ignore[return-value]
    return value


def as_divided(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, divided like this one; all processes have the whole."""
    if not isinstance(like, DTensor):
        return tensor
    there = tensor.to(like.to_local().device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def divide_state(optimizer: torch.optim.Optimizer) -> None:
    """The state of an optimizer, loaded whole, divided like its parameters."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = as_divided(value, parameter)
