"""What was measured on, and with."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
OURS = ("clipzs", "openvino", "onnxruntime", "torch", "open_clip_torch", "numpy", "pillow", "safetensors")
THEIRS = ("open_clip_torch", "torch", "torchvision", "transformers", "pybioclip", "numpy", "pillow")
_VERSIONS = """
import importlib.metadata as m, json, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({name: version(name) for name in sys.argv[1:] if version(name)}))
"""


def facts(rivals_python: str | None) -> dict[str, Any]:
    """Of the processor, the memory, the system and both environments."""
    cpu = _table("/proc/cpuinfo")
    flags = cpu.get("flags", "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(int(_table("/proc/meminfo").get("MemTotal", "0 kB").split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "clipzs_environment": versions(sys.executable, OURS),
        "rivals_environment": versions(rivals_python, THEIRS) if rivals_python else {},
    }


def moment() -> dict[str, Any]:
    """When it was measured, and how busy the machine was just before."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively."""
    flags = _table("/proc/cpuinfo").get("flags", "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Those that are installed in an environment."""
    command = [python, "-c", _VERSIONS, *packages]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _table(path: str) -> dict[str, str]:
    """`name : value` lines; of several with one name the first."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found
