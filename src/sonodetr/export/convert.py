"""From a run folder to a folder that runs without torch: graphs and `contract.json`."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch

from sonodetr.bundled import model_folder
from sonodetr.config import Config, DataConfig
from sonodetr.contract import (
    CONTRACT,
    PACKAGES,
    RUNTIMES,
    Contract,
    graph_files,
    sha256,
    write_contract,
)
from sonodetr.engines.torch import interface_of, load_checked
from sonodetr.export.files import write_graph
from sonodetr.export.folder import check_target, whole_folder
from sonodetr.export.graph import EVERYTHING, Graph, graphs_of
from sonodetr.export.parity import TOLERANCE, Parity, clips_of, open_everything, simulated_clips
from sonodetr.export.quantise import held_out_loss, quantise_graphs, read_calibration
from sonodetr.files import InputError, closest
from sonodetr.formats import read
from sonodetr.model.detr import DETR
from sonodetr.progress import progress_bar
from sonodetr.training.run import DIVISION, WEIGHTS, RunInfo
from sonodetr.types import Video

_MOST_REAL = 32  # frames of the user's recordings that the artefact is compared on
_INPUT = (
    "uint8 in 0..255, [time, height, width, channels], oldest frame first: the ultrasound picture, "
    "as large as it fits into image_size undistorted, centred, black around it"
)
_SPACING = (
    "boxes and points are in 0..1 of the input; mapped back to pixels of the frame, they become mm "
    "by the frame's own spacing; the model knows none"
)


def export_model(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    int8: bool = False,
    calibration: str | os.PathLike[str] | None = None,
    check: str | os.PathLike[str] | None = None,
    allow_loss: float = 0.005,
) -> Contract:
    """Write a trained model as graphs for a runtime, checked against torch; all of it or nothing.

    Args:
        run: run folder, or the name of a bundled model.
        out: folder to write; an earlier export there is replaced.
        format: "onnx" or "openvino".
        int8: quantise weights and activations to 8 bits.
        calibration: the data of the training, for `int8`: its training part sets the ranges, its
            validation and test parts tell what AP that costs.
        check: recordings to compare with torch on, beside simulated ones; left out, those of the
            training, where they still are.
        allow_loss: largest loss of AP through `int8`.

    Returns:
        What was written to `contract.json`.

    Raises:
        InputError: the model, the data or the folder cannot be used; the artefact does not answer
            what torch does; or INT8 loses more AP than allowed.
        ModuleNotFoundError: a package of the extra `export` is not installed.
    """
    run, out = model_folder(run), Path(out)
    _check_request(run, out, format, int8, calibration)
    model, config, info = load_checked(run)
    data = (
        read_calibration(calibration, run, config.data, info.classes)
        if calibration and int8
        else None
    )
    real = list(data.videos) if data else []
    if check:
        real += read(check)
    elif not data:
        real = _own_data(run, config.data)
    with whole_folder(out) as part, TemporaryDirectory() as scratch:
        folder = Path(scratch) / "float32" if data else part
        folder.mkdir(exist_ok=True)
        graphs = _write_graphs(model, config, folder, format)
        contract = _contract(run, config, info, format, graphs)
        parity = _compare(model, config, folder, contract, real)
        contract = _close(replace(contract, parity=parity), run, folder)
        if data is not None:
            quantise_graphs(contract, folder, part, data, config.data)
            versions = contract.versions | _versions("nncf")
            contract = replace(contract, precision="int8", versions=versions)
            contract = _close(contract, run, part)
            ap = held_out_loss(folder, part, data, allow_loss)
            contract = _close(replace(contract, parity=parity | {"int8": ap}), run, part)
    return contract


def _own_data(run: Path, config: DataConfig) -> list[Video]:
    """The recordings of the training, if they are still there."""
    if not (config.path and Path(config.path).exists()):
        return []
    try:
        return read(config.path, images=config.images, on_bad_label="skip")
    except InputError as error:
        raise InputError(
            f"{error}; {run} was trained on it, so it would be compared on it: mend it, or compare "
            "on other recordings with --check DATA"
        ) from None


def _check_request(run: Path, out: Path, format: str, int8: bool, calibration: Any) -> None:
    if format not in RUNTIMES:
        raise InputError(f"unknown format {format!r}; {closest(format, RUNTIMES)}")
    if (run / CONTRACT).is_file():
        raise InputError(f"{run}: is exported already; give the run folder it came from")
    if int8 and calibration is None:
        raise InputError(
            "int8 needs the data the run was trained on, to set its ranges and to measure what it "
            "costs; give --calibration DATA"
        )
    if out.absolute() == run.absolute():
        raise InputError(f"{out}: is the run itself; choose another folder")
    check_target(out)


def _write_graphs(model: DETR, config: Config, folder: Path, format: str) -> dict[str, str]:
    """Trace and save; what each graph does -> its file."""
    data = config.data
    graphs = graphs_of(model, data.image_size, data.channels, data.clip_frames)
    files = {name: name + RUNTIMES[format][0] for name in graphs}
    with progress_bar("trace", len(graphs), "graphs") as advance:
        for name, graph in graphs.items():
            write_graph(_to_onnx(graph), folder / files[name])
            advance()
    return files


def _to_onnx(graph: Graph) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            graph.module.eval(),
            (graph.example,),
            input_names=[graph.input],
            output_names=list(graph.outputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    traced = program.model_proto
    answers = [each for each in traced.graph.output if each.name not in EVERYTHING]
    del traced.graph.output[:]
    traced.graph.output.extend(answers)
    # The exporter notes which line of which file made a node.
    for noted in (traced, traced.graph, *traced.graph.node, *traced.graph.value_info):
        del noted.metadata_props[:]
    onnx.checker.check_model(traced)
    return traced


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter says about its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(
    model: DETR, config: Config, folder: Path, contract: Contract, real: Sequence[Video]
) -> dict[str, Any]:
    """Figures of the comparison with torch, on simulated frames and on `real` ones."""
    places = [(index, frame) for index, video in enumerate(real) for frame in range(len(video))]
    picked = np.linspace(0, len(places) - 1, min(len(places), _MOST_REAL)).round().astype(int)
    samples = [places[index] for index in picked]
    clips = simulated_clips(config.data)
    parity = Parity(model, open_everything(folder, contract))
    with progress_bar("compare with torch", len(clips) + len(samples), "frames") as advance:
        for clip in (*clips, *clips_of(real, samples, config.data)):
            parity.compare(clip)
            advance()
    if 2 * parity.undecided > parity.clips:
        raise InputError(
            f"the exported model cannot be compared with torch: on {parity.undecided} of "
            f"{parity.clips} frames some proposals are as good as each other, as in a model that "
            "was hardly trained; train it, then export"
        )
    frames = {"simulated": len(clips), "real": len(samples), "undecided": parity.undecided}
    return {"tolerance": TOLERANCE, "frames": frames, "largest_difference": parity.worst}


def _contract(
    run: Path, config: Config, info: RunInfo, format: str, graphs: dict[str, str]
) -> Contract:
    return Contract(
        **asdict(interface_of(config, info)),
        name=config.name,
        runtime=format,
        precision="float32",
        graphs=graphs,
        spacing=_SPACING,
        input=_INPUT,
        weights_sha256=sha256(run / WEIGHTS),
        files_sha256={},
        versions=_versions("sonodetr", "torch", "onnx", "onnxscript", PACKAGES[format]),
        parity={},
        provenance=info.model_dump(mode="json", include={"step", "validation", "provenance"}),
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}


def _close(contract: Contract, run: Path, folder: Path) -> Contract:
    """Add the run's division of its data, and write the contract with the hashes of all files."""
    names = [
        file for graph in contract.graphs.values() for file in graph_files(contract.runtime, graph)
    ]
    if (run / DIVISION).is_file():
        shutil.copyfile(run / DIVISION, folder / DIVISION)
        names.append(DIVISION)
    contract = replace(contract, files_sha256={name: sha256(folder / name) for name in names})
    write_contract(folder, contract)
    return contract
