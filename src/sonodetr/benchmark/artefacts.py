"""What is timed: models as they are, and trained runs as every runtime would get them."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from sonodetr.bundled import model_folder
from sonodetr.contract import (
    CONTRACT,
    PACKAGES,
    Contract,
    check_files,
    graph_files,
    read_contract,
)
from sonodetr.files import InputError, closest, read_json, write_text

RUNTIMES = {"torch": "torch"} | PACKAGES
SMALLEST_SIDE = 32  # a cell of the deepest map
LARGEST_SIDE = 2048  # whose 16,384 tokens need more than a GiB a layer and head
EVALUATION = "evaluation-test/evaluation.json"


@dataclass(frozen=True)
class Artefact:
    """A model in one runtime, at one input size.

    Attributes:
        model: as the user named it.
        folder: what is opened: a run folder or an exported folder.
        runtime: one of `RUNTIMES`.
        precision: "float32" or "int8".
        image_size: height and width in pixels that it sees.
        graphs: files of the graphs whose layers make the floor, and which are profiled.
        file_bytes: of the weights or graphs.
    """

    model: str
    folder: Path
    runtime: str
    precision: str
    image_size: tuple[int, int]
    graphs: tuple[Path, ...]
    file_bytes: int

    @property
    def name(self) -> str:
        """A line that tells it from the others."""
        height, width = self.image_size
        precision = "" if self.precision == "float32" else f" {self.precision}"
        return f"{self.model} {self.runtime}{precision} {height} x {width}"


def check_runtimes(runtimes: Sequence[str]) -> None:
    """Check that the runtimes exist and are installed.

    Raises:
        InputError: a runtime is unknown.
        ModuleNotFoundError: a package is not installed.
    """
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise InputError(f"no runtime {runtime!r}; {closest(runtime, RUNTIMES)}")
    # Whatever the runtime, OpenVINO reads the layers of the floor.
    for package in (*(RUNTIMES[runtime] for runtime in runtimes), "openvino"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def artefacts_of(
    model: str, runtimes: Sequence[str], sizes: Sequence[int], temporary: Path
) -> list[Artefact]:
    """A model in all runtimes and at all input sizes that were asked for.

    An exported folder is one artefact; a run folder is copied for other sizes, and exported.

    Args:
        sizes: sides of the square input in pixels; none means that of the training.
        temporary: an empty folder for copies and exports.

    Raises:
        InputError: the model cannot be used, or not at a size.
    """
    folder = model_folder(model)
    if (folder / CONTRACT).is_file():
        contract = read_contract(folder)
        check_files(folder, contract)
        return [_exported(model, folder, contract)]
    found = []
    for number, run in enumerate(_runs(folder, sizes, temporary)):
        # torch runs no graph, but the floor of its layers is read from one.
        exported = {
            runtime: _export(run, temporary / f"{number}-{runtime}", runtime)
            for runtime in (set(runtimes) - {"torch"} or {"onnx"})
        }
        for runtime in runtimes:
            if runtime == "torch":
                (other, *_) = (_exported(model, *each) for each in exported.values())
                weights = (run / "model.safetensors").stat().st_size
                found.append(replace(other, folder=run, runtime="torch", file_bytes=weights))
            else:
                found.append(_exported(model, *exported[runtime]))
    return found


def ap_of(model: str, image_size: tuple[int, int]) -> float | None:
    """AP on its test part where a model was evaluated, at the size of its training.

    Args:
        model: run folder, exported folder, or the name of a bundled model, which `evaluate` writes
            of in the working folder.
    """
    folder = model_folder(model)
    path = folder / EVALUATION if folder == Path(model) else Path(f"{model}-{EVALUATION}")
    if not path.is_file() or _size(folder) != image_size:
        return None
    try:
        ap = read_json(path)["figures"]["ap"]
        return None if ap is None else float(ap)
    except (KeyError, TypeError):
        raise InputError(f"{path}: holds no AP; evaluate the model again, or delete it") from None


def _size(folder: Path) -> tuple[int, int]:
    from sonodetr.config_file import config_from_run

    if (folder / CONTRACT).is_file():
        return read_contract(folder).image_size
    return config_from_run(folder).data.image_size


def _runs(folder: Path, sizes: Sequence[int], temporary: Path) -> list[Path]:
    """The run folder, or copies of it that see other sizes."""
    from sonodetr.config_file import config_from_run, dump_config, parse_config

    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: is neither a run folder nor an exported folder; "
            "give a folder that `sonodetr train` or `sonodetr export` wrote"
        )
    config = config_from_run(folder)
    copies = []
    for side in sizes:
        if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise InputError(f"--size {side}: give {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
        if (side, side) == config.data.image_size:
            copies.append(folder)
            continue
        values = config.model_dump(mode="json")
        values["data"]["image_size"] = [side, side]
        resized = parse_config(values, f"{folder}: --size {side}")
        copy = temporary / f"run-{side}"
        copy.mkdir()
        for path in folder.iterdir():
            if path.suffix in (".json", ".safetensors") and "checkpoint" not in path.name:
                shutil.copyfile(path, copy / path.name)
        write_text(copy / "config.yaml", dump_config(resized))
        copies.append(copy)
    return copies or [folder]


def _export(run: Path, out: Path, runtime: str) -> tuple[Path, Contract]:
    from sonodetr.export.convert import export_model

    return out, export_model(run, out, format=runtime)


def _exported(model: str, folder: Path, contract: Contract) -> Artefact:
    graphs = contract.graphs.values()
    files = [file for name in graphs for file in graph_files(contract.runtime, name)]
    return Artefact(
        model,
        folder,
        contract.runtime,
        contract.precision,
        contract.image_size,
        tuple(folder / name for name in graphs),
        sum(os.path.getsize(folder / file) for file in files),
    )
