"""Where and in what to compute: device and precision, checked before anything is loaded."""

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from clipzs.errors import DeviceError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")
_GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, Windows' Linux, AMD


def chosen_device(name: str) -> str:
    """The device meant by `name`, as `device_and_reason` finds it.

    Raises:
        DeviceError: unknown, or not on this machine.
    """
    return device_and_reason(name)[0]


def device_and_reason(name: str) -> tuple[str, str]:
    """The device meant by `name`, and why it is that one; "auto" is the first GPU of CUDA or ROCm, or the CPU.

    An Apple GPU is taken only when it is named: its numbers have been wrong in several versions of torch. torch is
    imported only where a GPU may be.

    Raises:
        DeviceError: unknown, or not on this machine.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"unknown device {name!r}", hint="--device takes auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return "cpu", "asked for"
    if kind == "auto" and (reason := _no_gpu()):
        return "cpu", reason
    import torch

    if kind == "auto":
        if torch.cuda.is_available():
            return "cuda", f"the first GPU that torch {torch.__version__} can use: {torch.cuda.get_device_name(0)}"
        return "cpu", f"torch {torch.__version__} can use no GPU, though there seems to be one: is its driver too old?"
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise DeviceError(
            f"device {name} is not available: torch sees {count or 'no'} GPU{'' if count == 1 else 's'}",
            hint="use --device cpu, or install a torch build for your GPU",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not available on this machine", hint="use --device cpu")
    return name, "asked for"


def _no_gpu() -> str | None:
    """Why torch need not be asked for a GPU, if so: importing it takes longer than classifying an image."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    if sys.platform == "darwin":
        return "an Apple GPU is used only when it is asked for, with --device mps"
    if sys.platform == "win32":
        seen = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    else:
        seen = any(os.path.exists(path) for path in _GPU_FILES)
    if not seen:
        return "no GPU found"
    with suppress(PackageNotFoundError):
        if (build := version("torch")).endswith("+cpu"):
            return f"there is a GPU, but torch {build} was built for CPUs only"
    return None


def chosen_precision(name: str, device: str) -> str:
    """The precision meant by `name` on a device; "auto" is fp16 on an NVIDIA or AMD GPU and fp32 elsewhere.

    Raises:
        DeviceError: unknown, or not possible on this device.
    """
    if name == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    if name not in PRECISIONS:
        raise DeviceError(f"unknown precision {name!r}", hint=f"--precision takes auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device == "cpu":
        raise DeviceError("fp16 needs a GPU", hint="on a CPU use --precision fp32 or bf16")
    return name


def released(device: str) -> None:
    """Give the system back what torch keeps of a GPU's memory for later."""
    if device != "cpu":
        import torch

        (torch.mps if device == "mps" else torch.cuda).empty_cache()


def dtype(precision: str) -> "torch.dtype":
    """torch's name for a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
