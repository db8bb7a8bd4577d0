"""Errors a user can mend, and files that are either whole or absent. Imports nothing heavy."""

import difflib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
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
    if not names:
        return "there are none"
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(names)}"


@contextmanager
def folders_for(path: Path) -> Iterator[None]:
    """Make the folders that are to hold `path`; what was made goes again if the block fails."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # somebody else uses it by now
                folder.rmdir()
        raise


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` only if the block succeeds.

    A reader therefore never sees half a file, and a full disk or Ctrl-C leaves the old one, or
    none, and no folder that was made for it.

    A link stays a link, and what it names is replaced.

    Raises:
        InputError: the folder cannot be written, the disk is full, or no file is there but a
            folder or device.
    """
    final = Path(os.path.realpath(path))
    # Machines that share a folder may have processes of one number.
    part = final.with_name(f".{final.stem}.part{secrets.token_hex(6)}{final.suffix}")
    try:
        if final.exists() and not final.is_file():
            raise InputError(f"{path}: is a folder or device, not a file; choose another name")
        with folders_for(final):
            try:
                yield part
                os.replace(part, final)
            finally:
                with suppress(OSError):  # of a folder that was closed meanwhile
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {final}: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error


def check_folder(folder: Path) -> None:
    """Check, before any work, that files may be written in a folder; it is not made yet.

    Raises:
        InputError: it, or what is to hold it, is a file or cannot be written.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file; choose another folder")
    try:
        with TemporaryFile(dir=nearest):  # has no name, so that nothing is left
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{nearest}: cannot be written ({reason}); choose another folder"
        ) from None


def check_apart(source: str | os.PathLike[str], *outputs: str | os.PathLike[str]) -> None:
    """Whether what is written leaves alone what is read, now and the next time.

    Raises:
        InputError: an output is the source, or a picture in the folder that is the source.
    """
    read = Path(os.path.realpath(source))
    for output in outputs:
        written = Path(os.path.realpath(output))
        if written == read or (written.suffix == ".png" and read in written.parents):
            raise InputError(
                f"{output}: is what is read, or would be next time; choose another place for it"
            )


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
        return json.loads(source.read_text(encoding="utf-8-sig"))
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
    except (OSError, ValueError) as error:  # the name holds a null byte
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source}: cannot be read ({reason})") from error
    return source
