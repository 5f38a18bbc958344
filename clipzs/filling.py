"""torch modules built without memory, then filled from a checkpoint: a fraction of the usual time and memory."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Difference:
    """What tells the tensors of a file from those a module wants.

    Attributes:
        missing: names of those that only the module has.
        strange: names of those that only the file has.
        resized: those of both that have another shape, each as a phrase that says which.
    """

    missing: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line, such as "2 tensors are missing (a, b), 1 is unexpected (c)"; "" if all is the same."""
        kinds = (
            (self.missing, "is missing", "are missing", 2),
            (self.strange, "is unexpected", "are unexpected", 2),
            (self.resized, "has another shape", "have another shape", 1),
        )
        parts = [
            f"{len(all_)} {one if len(all_) == 1 else several} ({', '.join(all_[:shown])}{', …' * (len(all_) > shown)})"
            for all_, one, several, shown in kinds
            if all_
        ]
        count, _, rest = ", ".join(parts).partition(" ")
        return f"{count} tensor{'s' * (count != '1')} {rest}" if parts else ""


class Mismatch(RuntimeError):
    """Weights of another architecture; the message says which tensors differ, and how many."""


def filled(module: "torch.nn.Module", state: "State") -> "torch.nn.Module":
    """The module with the tensors of `state` for its own, floats as float32.

    Raises:
        Mismatch: names or shapes that do not agree.
        RuntimeError: something is left without memory.
    """
    if differing := str(difference(module.state_dict(), state)):
        raise Mismatch(differing)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    module.load_state_dict(state, strict=True, assign=True)
    empty = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    if empty:
        raise RuntimeError(f"not filled by the checkpoint: {', '.join(empty[:3])}")
    return module


def difference(wanted: Mapping[str, "torch.Tensor"], found: Mapping[str, "torch.Tensor"]) -> Difference:
    """Compare names and shapes of a module's tensors with those of a file."""
    return Difference(
        tuple(name for name in wanted if name not in found),
        tuple(name for name in found if name not in wanted),
        tuple(
            f"{name} is {_shape(found[name])}, expected {_shape(tensor)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ),
    )


def _shape(tensor: "torch.Tensor") -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


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
