"""What the machine can do: its matrix-multiply and memory rates, measured with `threads` threads.

They are the best over a few shapes, through torch, whose convolutions are oneDNN's: on x86 with
AVX2, AVX-512 and VNNI these come closest to what the arithmetic units can do.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Channels and side of 3x3 convolutions, and side of square matrices: large enough that a call's
# start does not matter, small enough to stay within the caches.
CONVOLUTIONS = ((64, 64), (128, 32), (256, 32))
MATRICES = (256, 512)


def float32_rate(seconds: float) -> float:
    """10^9 operations a second in float32, best over convolutions and matrix products."""
    rates = []
    each = seconds / len(CONVOLUTIONS + MATRICES)
    for channels, side in CONVOLUTIONS:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        picture = torch.rand(1, channels, side, side).to(memory_format=torch.channels_last)
        operations = 2 * 9 * channels**2 * side**2
        rates.append(operations / _shortest(lambda: layer(picture), each))  # noqa: B023
    for side in MATRICES:
        first, second, product = (torch.rand(side, side) for _ in range(3))
        took = _shortest(lambda: torch.mm(first, second, out=product), each)  # noqa: B023
        rates.append(2 * side**3 / took)
    return max(rates) / 1e9


def int8_rate(seconds: float) -> float:
    """10^9 operations a second on 8-bit integers, best over matrix products."""
    rates = []
    for side in MATRICES:
        first, second = torch.randint(-100, 100, (2, side, side), dtype=torch.int8)
        took = _shortest(lambda: torch._int_mm(first, second), seconds / len(MATRICES))  # noqa: B023
        rates.append(2 * side**3 / took)
    return max(rates) / 1e9


def memory_rate(working_set: int, seconds: float) -> float:
    """10^9 bytes read and written a second, best of copying and adding.

    Args:
        working_set: bytes of all arrays together, so that caches that hold them count.
    """
    count = max(working_set // 12, 1024)
    first, second, third = torch.ones(3, count).unbind()
    half = torch.ones(2, count * 3 // 2)
    copied = _shortest(lambda: half[0].copy_(half[1]), seconds / 2)
    added = _shortest(lambda: torch.add(first, second, out=third), seconds / 2)
    return max(half.nbytes / copied, 3 * first.nbytes / added) / 1e9


@torch.inference_mode()
def measure(working_sets_kib: Sequence[int], threads: int, seconds: float) -> dict[str, Any]:
    """All rates: `float32` and `int8` in 10^9 operations a second, `memory` by KiB in 10^9 bytes.

    Args:
        working_sets_kib: for `memory`.
        threads: processor threads, of the whole process.
        seconds: to spend in all.
    """
    torch.set_num_threads(threads)
    each = seconds / (2 + len(working_sets_kib))
    memory = {str(kib): memory_rate(1024 * kib, each) for kib in working_sets_kib}
    return {"float32": float32_rate(each), "int8": int8_rate(each), "memory": memory}


def _shortest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of as many calls as fit, at least 3 after a first one."""
    call()
    shortest, end, calls = math.inf, time.perf_counter() + seconds, 0
    while calls < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        shortest, calls = min(shortest, time.perf_counter() - started), calls + 1
    return shortest
