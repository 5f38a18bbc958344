"""torch modules built without memory, then filled from a checkpoint: a fraction of the usual time and memory."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from clipzs.checkpoint import State


def unfilled(build: Callable[[], "torch.nn.Module"]) -> "torch.nn.Module":
    """What `build` makes, its parameters with shapes but no memory.

    Buffers that a checkpoint does not hold (attention masks, rotary tables) must really be computed, so
    a module with such is built again with only its parameters left empty.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of initialisations that do nothing without memory
        with torch.device("meta"):
            module = build()
        if {name for name, _ in module.named_buffers()} - module.state_dict().keys():
            with _empty_parameters():
                module = build()
    return module


def filled(module: "torch.nn.Module", state: "State") -> "torch.nn.Module":
    """The module with the tensors of `state` for its own, floats as float32.

    Raises:
        RuntimeError: names or shapes that do not agree, or something left without memory.
    """
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    module.load_state_dict(state, strict=True, assign=True)
    empty = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    if empty:
        raise RuntimeError(f"not filled by the checkpoint: {', '.join(empty[:3])}")
    return module


@contextmanager
def _empty_parameters() -> Iterator[None]:
    """While this lasts, modules drop the memory of each parameter as it is registered."""
    import torch

    register = torch.nn.Module.register_parameter

    def register_empty(self: "torch.nn.Module", name: str, parameter: "torch.nn.Parameter | None") -> None:
        register(self, name, parameter)
        if parameter is not None and not parameter.is_meta:
            self._parameters[name] = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    torch.nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
