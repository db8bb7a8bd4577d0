"""Compressed data that has to be inflated as a whole before a frame in it can be found."""

import os
import tempfile
import zlib
from functools import lru_cache
from typing import BinaryIO

from sonodetr.files import InputError, existing_file

# A zlib stream with its header, and a bare deflate stream (DICOM).
ZLIB = zlib.MAX_WBITS
DEFLATE = -zlib.MAX_WBITS

_CHUNK = 1 << 20


def inflated(path: str, offset: int, window_bits: int, expected: int | None = None) -> BinaryIO:
    """A nameless temporary file that holds the inflated rest of `path` from byte `offset`.

    Each process inflates a file once and keeps the last few; they vanish with the process. Memory
    does not grow with the file: one MB at a time goes through it to the disk (`TMPDIR`).

    Args:
        path: the compressed file.
        offset: where the compressed data begin.
        window_bits: `ZLIB` or `DEFLATE`.
        expected: bytes there must be once inflated.

    Raises:
        InputError: the data are damaged, cut short, or not as many as expected.
    """
    stamp = existing_file(path).stat()
    version = (stamp.st_mtime_ns, stamp.st_size)
    return _inflate(path, offset, window_bits, expected, version, os.getpid())


@lru_cache(maxsize=8)
def _inflate(
    path: str,
    offset: int,
    window_bits: int,
    expected: int | None,
    _version: tuple[int, int],
    _process: int,
) -> BinaryIO:
    inflater = zlib.decompressobj(window_bits)
    target = tempfile.TemporaryFile(prefix="sonodetr-")  # noqa: SIM115
    written = 0
    try:
        with open(path, "rb") as source:
            source.seek(offset)
            chunk = source.read(_CHUNK)
            while chunk and not inflater.eof:
                written += target.write(inflater.decompress(chunk, _CHUNK))
                if expected is not None and written > expected:
                    break
                chunk = inflater.unconsumed_tail or source.read(_CHUNK)
    except zlib.error as error:
        raise InputError(
            f"{path}: the compressed data are damaged ({error}); copy the file again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be inflated in {tempfile.gettempdir()} ({error.strerror}); free some "
            "space or set TMPDIR"
        ) from error
    if not inflater.eof and (expected is None or written <= expected):
        raise InputError(f"{path}: the compressed data are cut short; copy the file again")
    if expected is not None and written != expected:
        more = "more than" if written > expected else f"only {written} of"
        raise InputError(
            f"{path}: holds {more} the {expected} bytes that its header claims; the file is damaged"
        )
    target.flush()
    return target
