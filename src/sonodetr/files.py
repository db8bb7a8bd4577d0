"""Errors a user can mend, and files that are either whole or absent. Imports nothing heavy."""

import difflib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was given, what is allowed and what to do next; the
    command line prints it without a traceback and exits with code 2.
    """


def closest(word: str, allowed: Iterable[str]) -> str:
    """The allowed words as text, with the closest one to `word` first.

    >>> closest("lerned", ["learned", "anchor"])
    "did you mean 'learned'? Allowed: learned, anchor"
    """
    names = list(allowed)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(names)}"


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` only if the block succeeds.

    A reader therefore never sees half a file, and a full disk or Ctrl-C leaves the old one.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    final = Path(path)
    # Machines that share a folder may have processes of one number.
    part = final.with_name(f".{final.stem}.part{secrets.token_hex(6)}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, final)
    except OSError as error:
        raise InputError(
            f"cannot write {final}: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error
    finally:
        with suppress(NotADirectoryError):  # the "folder" is a file, as was said above
            part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all (see `whole_file`)."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: the file is missing, empty, or not JSON (with line and column).
    """
    source = existing_file(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be truncated"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not a JSON text file ({type(error).__name__})") from error


def existing_file(path: str | os.PathLike[str]) -> Path:
    """`path` if it is a file with content.

    Raises:
        InputError: it does not exist, is a folder, or has zero bytes.
    """
    source = Path(path)
    try:
        if source.is_dir():
            raise InputError(f"{source}: is a folder, a file was expected")
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty (0 bytes); copy it again")
    except FileNotFoundError:
        raise InputError(f"{source}: no such file") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    return source
