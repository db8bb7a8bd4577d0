import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
from exported import HEIGHT, POINTS, WIDTH, write_exported

from sonodetr.contract import read_contract, sha256
from sonodetr.engines import GraphEngine, open_engine
from sonodetr.files import InputError

RUNTIMES = ("onnx", "openvino")


def opened(folder, threads=1) -> GraphEngine:
    return open_engine(read_contract(folder), folder, threads)


def flat(grey):
    return np.full((HEIGHT, WIDTH, 1), grey, np.uint8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_still(runtime, tmp_path):
    engine = opened(write_exported(tmp_path / "a", runtime, extra_output=True), threads=0)
    picture = flat(51)
    assert engine.see(picture) is picture
    answer = engine.detect([picture])
    np.testing.assert_allclose(answer.scores, [0.2, 0.1], rtol=1e-6)
    assert answer.classes.tolist() == [1, 0]
    assert answer.classes.dtype.type is np.int64
    np.testing.assert_allclose(
        answer.boxes_cxcywh, [[0.2, 0.5, 0.25, 0.5], [0.5, 0.5, 1, 1]], rtol=1e-6
    )
    np.testing.assert_array_equal(answer.points, POINTS)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("two_graphs", [False, True])
def test_a_clip_is_read_from_the_oldest_frame_to_the_last(runtime, two_graphs, tmp_path):
    engine = opened(write_exported(tmp_path / "a", runtime, 3, two_graphs=two_graphs, points=False))
    seen = [engine.see(flat(grey)) for grey in (51, 102, 204)]
    assert seen[0].shape == ((1,) if two_graphs else (HEIGHT, WIDTH, 1))
    answer = engine.detect(seen)
    np.testing.assert_allclose(answer.scores, [0.8, 0.4], rtol=1e-6)
    assert answer.boxes_cxcywh[0, 0] == pytest.approx(0.2)
    assert answer.points is None


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_are_the_callers_own(runtime, tmp_path):
    """A runtime that writes every answer to one place must not change the ones before."""
    engine = opened(write_exported(tmp_path / "a", runtime, 2, two_graphs=True))
    first, second = engine.see(flat(51)), engine.see(flat(204))
    assert first.item() == pytest.approx(0.2)
    before = engine.detect([first, second])
    engine.detect([first, first])
    assert before.scores[0] == pytest.approx(0.8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_signals_are_handled_when_models_come_and_go(runtime, tmp_path):
    """The end of one of two models must leave what handlers of signals stand on."""
    folder = write_exported(tmp_path / "a", runtime)
    code = f"""
import gc, os, signal, sonodetr
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first, second = (sonodetr.load({str(folder)!r}) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, "handled\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("graph", "changes", "line"),
    [
        (
            {},
            {"image_size": (64, 48)},
            r"input of detect must be pictures \[1, 64, 48, 1\], but is "
            r"pictures \[1, 32, 48, 1\]",
        ),
        ({}, {"channels": 3}, r"pictures \[1, 32, 48, 3\]"),
        ({}, {"clip_frames": 2}, r"pictures \[2, 32, 48, 1\]"),
        (
            {},
            {"points": False},
            "output of detect must be scores, classes, boxes_cxcywh, but is "
            "scores, classes, boxes_cxcywh, points",
        ),
        ({"points": False}, {"points": True}, "must be scores, classes, boxes_cxcywh, points"),
        (
            {"clip_frames": 2, "two_graphs": True},
            {"image_size": (3, 5)},
            r"input of frame must be "
            r"picture \[3, 5, 1\]",
        ),
        (
            {"clip_frames": 2, "two_graphs": True},
            {"clip_frames": 3},
            r"input of clip must be "
            r"features \[3, 1\], but is features \[2, 1\]",
        ),
    ],
)
def test_a_contract_of_another_model(runtime, graph, changes, line, tmp_path):
    folder = write_exported(tmp_path / "a", runtime, **graph)
    contract = read_contract(folder)
    changed = type(contract)(**(vars(contract) | changes))
    with pytest.raises(InputError, match=f"contract.json: is of another model: .*{line}") as error:
        open_engine(changed, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_that_takes_more_than_pictures(runtime, tmp_path):
    folder = write_exported(tmp_path / "a", "onnx")
    path = folder / "detect.onnx"
    model = onnx.load(path)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, [1])
    )
    onnx.save(model, path)
    graphs = {"detect": path.name}
    if runtime == "openvino":
        path = path.with_suffix(".xml")
        openvino.save_model(openvino.Core().read_model(folder / "detect.onnx"), path)
        graphs = {"detect": path.name}
    files = {each.name: sha256(each) for each in folder.glob("detect.*")}
    contract = replace(read_contract(folder), runtime=runtime, graphs=graphs, files_sha256=files)
    with pytest.raises(InputError, match=r"input of detect must be pictures \[1, 32, 48, 1\], but"):
        open_engine(contract, folder)


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "detect.onnx"), ("openvino", "detect.xml")])
def test_graphs_that_the_runtime_cannot_run(runtime, name, tmp_path):
    folder = write_exported(tmp_path / "a", runtime)
    if runtime == "onnx":
        model = onnx.load(folder / name)
        model.opset_import[0].version = 9999
        onnx.save(model, folder / name)
    else:
        (folder / name).write_text((folder / name).read_text().replace("ReduceMean", "Nonsense"))
    contract = read_contract(folder)
    contract.files_sha256[name] = sha256(folder / name)
    with pytest.raises(InputError, match=f"{name}: .* cannot run it .*; install a newer") as error:
        open_engine(contract, folder)
    assert "\n" not in str(error.value)
