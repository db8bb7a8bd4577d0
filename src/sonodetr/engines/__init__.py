"""What runs a model: one class for trained runs, one for exported graphs in any runtime.

An engine sees each frame once and answers for clips of what it saw. A runtime is one module with
`open_graph(path, threads) -> Graph`, and one case in `open_graphs` (docs/contract.md). Runtimes,
and torch, are imported when they are needed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from sonodetr.contract import CONTRACT, Contract, check_files
from sonodetr.files import InputError
from sonodetr.shapes import UInt8
from sonodetr.types import Answer

Shape = tuple[int, ...]


@runtime_checkable
class Engine(Protocol):
    """A model that is ready to run; frames are pictures of the size that it sees."""

    def see(self, picture: UInt8[np.ndarray, "height width channels"]) -> np.ndarray:
        """What is kept of a frame until its clips are complete: itself, or its features."""
        ...

    def detect(self, clip: Sequence[np.ndarray]) -> Answer:
        """What is in the last frame of a clip: as many of `see`'s as a clip has, oldest first."""
        ...


class Graph(NamedTuple):
    """One exported graph in some runtime.

    Attributes:
        inputs, outputs: name -> shape; a model of ours has one input.
        run: from the array of that input to the outputs by name; nobody else keeps those.
    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]]


class GraphEngine:
    """Runs exported graphs: `detect`, or `frame` once a frame and `clip` once a clip.

    Args:
        graphs: by what they do.
        contract: what they must take and give.
        folder: where they come from, for errors.

    Raises:
        InputError: a graph takes or gives something else.
    """

    def __init__(
        self, graphs: Mapping[str, Graph], contract: Contract, folder: str | os.PathLike[str]
    ) -> None:
        self._graphs = graphs
        picture, clip = (*contract.image_size, contract.channels), contract.clip_frames
        taken: dict[str, Shape]
        if "frame" in graphs:
            features = graphs["frame"].outputs.get("features", ())
            _check(folder, "input of frame", graphs["frame"].inputs, {"picture": picture})
            name, taken = "clip", {"features": (clip, *features)}
        else:
            name, taken = "detect", {"pictures": (clip, *picture)}
        self._last = graphs[name]
        _check(folder, f"input of {name}", self._last.inputs, taken)
        answers = Answer._fields if contract.points else Answer._fields[:-1]
        given = [answer for answer in Answer._fields if answer in self._last.outputs]
        _check(folder, f"output of {name}", dict.fromkeys(given), dict.fromkeys(answers))

    def see(self, picture: UInt8[np.ndarray, "height width channels"]) -> np.ndarray:
        """As `Engine.see`."""
        if "frame" in self._graphs:
            return self._graphs["frame"].run(picture)["features"]
        return picture

    def detect(self, clip: Sequence[np.ndarray]) -> Answer:
        """As `Engine.detect`."""
        found = self._last.run(clip[0][None] if len(clip) == 1 else np.stack(clip))
        return Answer(*(found[name] for name in Answer._fields if name in found))


def open_engine(
    contract: Contract, folder: str | os.PathLike[str], threads: int = 0
) -> GraphEngine:
    """Open the graphs of an exported folder, once its files are those of its contract.

    Args:
        threads: processor threads; 0 leaves it to the runtime.

    Raises:
        InputError: a file is missing or differs, or the installed runtime cannot open it.
        ModuleNotFoundError: the runtime is not installed.
    """
    check_files(folder, contract)
    return GraphEngine(open_graphs(contract, folder, threads), contract, folder)


def open_graphs(
    contract: Contract, folder: str | os.PathLike[str], threads: int = 0
) -> dict[str, Graph]:
    """The graphs of a folder by what they do, unchecked.

    Args:
        threads: processor threads; 0 leaves it to the runtime.

    Raises:
        InputError: the installed runtime cannot open one.
        ModuleNotFoundError: the runtime is not installed.
    """
    match contract.runtime:
        case "onnx":
            from sonodetr.engines.onnx import open_graph
        case "openvino":
            from sonodetr.engines.openvino import open_graph
        case _:
            raise ValueError(f"no runtime {contract.runtime!r}")
    return {
        name: open_graph(Path(folder) / file, threads) for name, file in contract.graphs.items()
    }


def _check(
    folder: str | os.PathLike[str], what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    if dict(found) != dict(wanted):
        raise InputError(
            f"{Path(folder) / CONTRACT}: is of another model: {what} must be {_words(wanted)}, but "
            f"is {_words(found)}; copy the exported folder again, or export the model again"
        )


def _words(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {list(shape)}" if shape else name for name, shape in shapes.items())
