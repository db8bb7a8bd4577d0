"""A folder that is either whole or absent."""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonodetr.contract import CONTRACT
from sonodetr.evaluation.evaluate import FILES
from sonodetr.files import InputError, check_folder, folders_for, read_json


def check_target(folder: Path) -> None:
    """Check, before any work, that an export may be written here.

    Raises:
        InputError: it is a file, a folder with other things, or cannot be written.
    """
    if folder.is_dir():
        if foreign := _foreign(folder):
            raise InputError(
                f"{folder}: holds {foreign}, which is not of an exported model and would be lost; "
                "choose another folder"
            )
    elif folder.exists():
        raise InputError(f"{folder}: is a file; choose another folder")
    check_folder(folder.absolute().parent)


def _foreign(folder: Path) -> str:
    """The first thing in it that no export and no evaluation of one has written, or nothing."""
    ours = {CONTRACT}
    if (folder / CONTRACT).is_file():
        # Of another version or changed since, it still says which files came with it.
        values = read_json(folder / CONTRACT)
        named = values.get("files_sha256") if isinstance(values, dict) else None
        ours |= set(named) if isinstance(named, dict) else set()
    paths = sorted(path for path in folder.iterdir() if path.name not in ours)
    return next((path.name for path in paths if not _is_evaluation(path)), "")


def _is_evaluation(path: Path) -> bool:
    """Whether `sonodetr evaluate` wrote all that is in it."""
    named = path.is_dir() and path.name.startswith("evaluation-")
    return named and {each.name for each in path.iterdir()} <= set(FILES)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place only if the block succeeds.

    An earlier export at `path` stays until then. On failure nothing is left, neither the folder nor
    parents that were made for it; what a killed process left is removed by the next.

    Raises:
        InputError: it cannot be written, or the disk is full.
    """
    final = Path(os.path.realpath(path))  # a link stays one
    unique = secrets.token_hex(6)
    part = final.with_name(f".{final.name}.part{unique}")
    old = final.with_name(f".{final.name}.old{unique}")
    for left in final.parent.glob(f".{glob.escape(final.name)}.part*"):
        with _held(left) as abandoned:
            if abandoned:
                shutil.rmtree(left, ignore_errors=True)
    try:
        with folders_for(part):
            try:
                part.mkdir()
                with _held(part):
                    yield part
                if final.exists():
                    final.rename(old)
                part.rename(final)
            finally:
                if old.exists() and not final.exists():
                    old.rename(final)
                for leftover in (part, old):
                    shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Lock a folder until the process ends at the latest; False: another has it, or it is gone."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    import fcntl  # not on Windows, which opens no folder either

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(opened)
