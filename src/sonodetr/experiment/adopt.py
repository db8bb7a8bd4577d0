"""Trainings that were done outside of an experiment, taken in under their address."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonodetr.config_file import config_from_run
from sonodetr.experiment.address import (
    SHORT,
    address,
    affecting,
    facts_of,
    simulates,
    sources,
    sources_at,
    what_it_does,
)
from sonodetr.experiment.work import copy_run, held
from sonodetr.files import InputError, read_json, write_json

_NAMED = 3  # of what changed


def adopt(folders: Sequence[Path], out: Path, revision: str = "") -> tuple[list[Path], list[str]]:
    """Copy finished runs whose code, data and teacher are known to `out / "runs"`.

    The code is that of the git revision which `run.json` names, and must be what is running now.
    The data is taken to be what lies there now, if it is divided as it was.

    Args:
        folders: run folders, or folders of run folders.
        out: of experiments.
        revision: whoever adopts them vouches that this was their code; empty: as `run.json` says.

    Returns:
        The new folders, and for every run that was left out a line that says why.

    Raises:
        InputError: a folder holds no run, or git has no such revision.
    """
    if revision:
        sources_at(revision)
    runs: list[Path] = []
    for folder in folders:
        own = (folder / "config.yaml").is_file()
        found = [folder] if own else sorted(path.parent for path in folder.glob("*/config.yaml"))
        if not found:
            raise InputError(
                f"{folder}: is no run folder and holds none; name a folder of finished runs"
            )
        runs += found
    taken, left = [], []
    for run in runs:
        try:
            taken.append(_adopt(run, out, revision))
        except InputError as error:
            left.append(f"{run}: not taken: {str(error).removeprefix(f'{run}: ')}")
    return taken, left


def _adopt(run: Path, out: Path, revision: str) -> Path:
    """One run.

    Raises:
        InputError: it is not finished, something of it is not known, or it cannot be copied.
    """
    from sonodetr.data.splits import to_json
    from sonodetr.training.data import open_data
    from sonodetr.training.run import DIVISION, TEACHER, read_info

    if not (run / "last.safetensors").is_file():
        raise InputError("it is not finished; go on with --resume")
    config = config_from_run(run)
    teacher = read_json(run / TEACHER)["fingerprint"] if config.distill.teacher else ""
    own = read_info(run).provenance["git_revision"]
    if not revision and (own is None or str(own).endswith("-dirty")):
        said = "no revision" if own is None else f"revision {own}, which was changed"
        raise InputError(f"its run.json names {said}; if you know its code, name it: --trained-at")
    revision = revision or str(own)
    if changed := _changed(sources_at(revision), bool(teacher), simulates(config.data)):
        names = ", ".join(changed[:_NAMED]) + (", ..." if changed[_NAMED:] else "")
        raise InputError(f"its code was another: {names} changed since {revision}")
    data = open_data(config)
    if to_json(data.videos, data.split) != read_json(run / DIVISION):
        raise InputError(f"the data in {config.data.path} is divided differently now")
    facts = facts_of(config, teacher)
    short = address(facts)[:SHORT]
    with held(out / "locks" / short) as free:
        if not free:
            raise InputError("it is being trained here; wait for that")
        return _copy(
            run, out / "runs", short, facts | {"adopted": {"from": str(run), "revision": revision}}
        )


def _changed(before: Mapping[str, bytes], teacher: bool, simulated: bool) -> list[str]:
    """Modules that compute a run and do something else than they did before."""
    now = sources()
    paths = {path for code in (before, now) for path in affecting(code, teacher, simulated)}
    return sorted(
        path
        for path in paths
        if what_it_does(before.get(path, b"")) != what_it_does(now.get(path, b""))
    )


def _copy(run: Path, folder: Path, short: str, facts: dict[str, Any]) -> Path:
    """A run folder under its address."""
    there = next((path for path in folder.glob(f"*-{short}") if path.is_dir()), None)
    if there is not None:
        if (there / "last.safetensors").is_file():
            return there
        raise InputError(f"{there} was begun; remove that folder to take this run instead")
    new = folder / f"{run.name}-{short}"
    write_json(folder / f"{new.name}.json", facts)
    copy_run(run, new)
    return new
