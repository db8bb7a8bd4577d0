"""What a benchmark must say of the machine and the versions it ran with. Imports nothing heavy."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("sonodetr", "torch", "onnxruntime", "openvino", "nncf", "numpy"),
    "opencv-python-headless",
)


def describe() -> dict[str, Any]:
    """Processor, its instructions that matter here, cores, load and versions."""
    return {
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def cores() -> int:
    """Processor threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_mib() -> float | None:
    """The most memory that this process ever held, in MiB; None where the system does not say.

    A process's `getrusage` would say what its parent held, where that was more.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None


def _processor() -> str:
    named = (line for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    line = next(named, "")
    return line.partition(":")[2].strip() or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """Those of the instruction sets that make matrix products faster which the processor has."""
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "").split()
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return [name for name in known if name in flags]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
