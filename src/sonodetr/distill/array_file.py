"""A `.npy` file of a size known from the start: its space taken, written by entry, read by map."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np

HEADER_BYTES = 128  # what numpy pads a header of few axes to
_CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_CHUNK_BYTES = 1 << 20


def allocate(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Make a file of zeros whose space on the disk is really taken, so that filling it cannot fail.

    Raises:
        OSError: the disk is full, or the file cannot be written.
        ValueError: more axes than fit into the header.
    """
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    left = math.prod(shape) * dtype.itemsize
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != HEADER_BYTES:
            raise ValueError(f"shape {shape} is too long for a header of {HEADER_BYTES} bytes")
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), HEADER_BYTES, left)
        except (AttributeError, OSError) as error:
            # macOS does not have it and some file systems cannot: zeros take the space as well.
            if isinstance(error, OSError) and error.errno not in _CANNOT_ALLOCATE:
                raise
            zeros = bytes(_CHUNK_BYTES)
            while left > 0:
                left -= file.write(zeros[:left])
        file.flush()
        os.fsync(file.fileno())


def write_entry(file: FileIO, entry: int, values: np.ndarray) -> None:
    """Put `values` where entry number `entry`, each of their size, lies in an allocated file.

    A plain write: on a full disk it is an error, where a memory map would end the process.
    """
    file.seek(HEADER_BYTES + entry * values.nbytes)
    left = memoryview(values.tobytes())
    while left:  # a nearly full disk takes a part, and says so only at the next write
        left = left[file.write(left) :]


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file mapped for reading. Nothing in it is ever unpickled: objects cannot be mapped.

    Raises:
        ValueError: the file is missing, truncated, or of another type or shape; the message can
            follow its name.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except (OSError, ValueError, EOFError, SyntaxError):
        raise ValueError("is no whole .npy file") from None
    if not array.flags.c_contiguous:
        raise ValueError("does not hold its entries one after the other")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"holds {array.dtype} {array.shape}, not {dtype} {shape}")
    return np.asarray(array)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for an advisory lock and hold it; the kernel frees it when the process dies."""
    import fcntl  # not on Windows

    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
