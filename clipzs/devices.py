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
    """The device meant by `name`; "auto" is the first GPU, or the CPU. torch is imported only where a GPU may be.

    Raises:
        DeviceError: unknown, or not on this machine.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"unknown device {name!r}", hint="--device takes auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu" or (kind == "auto" and not _gpu_in_sight()):
        return "cpu"
    import torch

    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise DeviceError(
            f"device {name} is not available: torch sees {count or 'no'} GPU{'' if count == 1 else 's'}",
            hint="use --device cpu, or install a torch build for your GPU",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not available on this machine", hint="use --device cpu")
    return name


def _gpu_in_sight() -> bool:
    """Whether torch is worth asking for a GPU: importing it takes longer than classifying an image."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    if sys.platform == "win32":
        seen = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    else:
        seen = any(os.path.exists(path) for path in _GPU_FILES)
    if seen:
        with suppress(PackageNotFoundError):
            return not version("torch").endswith("+cpu")
    return seen


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


def dtype(precision: str) -> "torch.dtype":
    """torch's name for a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
