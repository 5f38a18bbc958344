"""Weights files, read tensor by tensor: safetensors, or pickles in torch's weights-only way. No code in them runs."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clipzs.errors import ModelError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

_WRAPPERS = ("module.", "_orig_mod.")


class Checkpoint:
    """The tensors of one file, by name."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path

    def tensors(self, wanted: Callable[[str], bool]) -> "State":
        """The tensors whose name is wanted; the file is mapped, so that nothing else is read.

        What training in parallel or compiled puts in front of names is left out.

        Raises:
            ModelError: the file cannot be read, is damaged, or is a pickle that holds more than tensors.
        """
        try:
            if self.path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(self.path, framework="pt", device="cpu") as file:
                    names = {plain_name(key): key for key in file.keys()}  # noqa: SIM118
                    return {name: file.get_tensor(key) for name, key in names.items() if wanted(name)}
            return {name: tensor for name, tensor in self._pickled.items() if wanted(name)}
        except (MemoryError, ModelError):
            raise
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or short(error)}") from error
        except Exception as error:  # a damaged file can raise anything from a parser
            raise self._problem(error) from error

    @cached_property
    def _pickled(self) -> "State":
        import torch

        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError) as error:
            if "mmap can only be used" not in str(error):
                raise
            state = torch.load(self.path, map_location="cpu", weights_only=True)  # files older than torch 1.6
        if isinstance(state, dict) and "state_dict" in state:
            state = state["state_dict"]
        if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise ModelError(
                f"{self.path} is a pickle, but not of weights by name", hint="save the model's state_dict() alone"
            )
        return {plain_name(str(key)): tensor for key, tensor in state.items()}

    def _problem(self, error: Exception) -> ModelError:
        """torch's own advice in such cases is to switch the safety off, so its words are not passed on."""
        text = str(error)
        if self.path.suffix in (".npz", ".npy"):
            return ModelError(
                f"{self.path} is a checkpoint of big_vision, which clipzs does not read",
                hint="open_clip publishes its models converted: see `clipzs models list SigLIP`",
            )
        if "GLOBAL" in text or "Unsupported class" in text:
            return ModelError(
                f"{self.path} is a pickle that holds code or other objects besides weights; it was not run",
                hint="use the safetensors file of this model, or save its state_dict() alone",
            )
        if "TorchScript" in text:
            return ModelError(
                f"{self.path} is a TorchScript archive, not a checkpoint",
                hint="use an open_clip tag (OpenAI's own weights are --model ViT-B-32:openai)",
            )
        return ModelError(
            f"{self.path} is damaged, or not a checkpoint: {_cause(error)}",
            hint="fetch the file again; a cached one must be deleted first",
        )


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers of its model put in front: DataParallel "module.", compile "_orig_mod."."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _cause(error: Exception) -> str:
    if type(error).__name__ == "UnpicklingError" or "weights_only" in str(error):
        return "not a pickle of weights in a form that is safe to read"
    if isinstance(error, EOFError):
        return "it ends too early"
    return short(error)


def short(error: object) -> str:
    """The first line or so of an error, or of what is said of it, that may list every tensor of a model."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."
