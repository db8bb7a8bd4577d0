"""Exports: they answer what torch does, and nothing is left of one that fails."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from random_runs import CLASSES, KINDS, SPLIT

from sonodetr.contract import check_files, read_contract, sha256
from sonodetr.export import convert
from sonodetr.export.convert import export_model
from sonodetr.export.files import operators, read_graph
from sonodetr.export.folder import _held
from sonodetr.files import InputError
from sonodetr.predictor import load
from sonodetr.types import Frame


@pytest.mark.parametrize("kind", KINDS)
def test_exported_models_answer_what_torch_does(exported, kind):
    run, out = exported(kind)
    contract = read_contract(out)
    check_files(out, contract)
    parity = contract.parity
    assert parity["frames"] == {"simulated": 6, "real": 0, "undecided": 0}
    assert max(parity["largest_difference"].values()) < 1e-5
    assert set(contract.graphs) == ({"frame", "clip"} if kind in SPLIT else {"detect"})
    torch, graph = load(run), load(out)
    random = np.random.default_rng(11)
    frames = [Frame(random.integers(0, 256, (71, 83), np.uint8), index) for index in range(5)]
    for ours, theirs in zip(
        graph.predict_frames(frames, threshold=0.0),
        torch.predict_frames(frames, threshold=0.0),
        strict=True,
    ):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.boxes_xyxy_px, theirs.boxes_xyxy_px, atol=1e-2)
        assert ours.frame_index == theirs.frame_index
        assert (ours.points_px is None) == (theirs.points_px is None)


@pytest.mark.parametrize("kind", ["compact-onnx", "compact-openvino"])
def test_only_the_chosen_cells_get_a_box(exported, kind):
    """Of 4 x 6 cells 5 become queries; no operator gives 4 numbers for all. Nor is there any batch
    norm."""
    (path,) = exported(kind)[1].glob("detect.[ox][nm][nl]*")
    graph = read_graph(path)
    if path.suffix == ".onnx":
        found = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
        types = {each.name: each.type.tensor_type for each in (*found.value_info, *found.output)}
        shapes = {
            node.name: [axis.dim_value for axis in types[node.output[0]].shape.dim]
            for node in found.node
        }
    else:
        shapes = {
            each.get_friendly_name(): list(each.output(0).shape)
            for each in graph.get_ordered_ops()
            if each.get_type_name() != "Constant"
        }
    kinds = dict(operators(graph))
    # Batch norms are folded; and nothing that a runtime may lack or be slow at.
    forbidden = ("BatchNorm", "GridSample", "Loop", "TensorIterator", "If", "NonMaxSuppression")
    assert not [kind for kind in kinds.values() if kind.startswith(forbidden)]
    products = [shape for name, shape in shapes.items() if kinds[name] in ("MatMul", "Gemm")]
    # Heads that give 4 numbers: of the proposals' boxes, the only layer's boxes and points.
    assert [shape[-2:] for shape in products if shape[-1] == 4] == [[5, 4]] * 3
    assert [shape for shape in products if shape[-2:] == [24, 2]]  # all cells have class scores
    assert not [shape for shape in shapes.values() if shape[-2:] == [24, 4]]


def test_contract(exported):
    run, out = exported("compact-openvino")
    contract = read_contract(out)
    assert sorted(path.name for path in out.iterdir()) == [
        *("contract.json", "detect.bin", "detect.xml", "split.json"),
    ]
    assert set(contract.files_sha256) == {"detect.bin", "detect.xml", "split.json"}
    assert contract.weights_sha256 == sha256(run / "model.safetensors")
    assert (contract.runtime, contract.precision, contract.classes) == (
        *("openvino", "float32", CLASSES),
    )
    assert (contract.image_size, contract.channels, contract.threshold) == ((64, 96), 1, 0.25)
    assert contract.provenance["step"] == 3
    assert set(contract.versions) == {"sonodetr", "torch", "onnx", "onnxscript", "openvino"}


def test_the_graphs_tell_nothing_about_where_they_were_made(exported):
    for kind in ("compact-onnx", "compact-openvino"):
        for path in exported(kind)[1].glob("detect*"):
            assert b".py" not in path.read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(run: Path, out: Path, **options) -> str:
    """The one line with which an export is refused, and nothing is left in `out`'s folder."""
    before = left(out.parent) if out.parent.is_dir() else None
    with pytest.raises(InputError) as error:
        export_model(run, out, **options)
    assert (left(out.parent) if out.parent.is_dir() else None) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_requests(tmp_path, tiny_run, exported):
    out = tmp_path / "new" / "out"
    assert "did you mean 'onnx'" in refused(tiny_run, out, format="onx")
    assert "no such run folder" in refused(tmp_path / "absent", out)
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x02}.")
    assert "pickled checkpoints are not opened" in refused(pickled, out)
    assert "--calibration" in refused(tiny_run, out, int8=True)
    assert "is exported already" in refused(exported("compact-onnx")[1], out)
    assert "has no split.json" in refused(tiny_run, out, int8=True, calibration=tmp_path)
    (tmp_path / "no-weights").mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copyfile(tiny_run / name, tmp_path / "no-weights" / name)
    assert "has no model.safetensors yet" in refused(tmp_path / "no-weights", out)


def test_targets_that_cannot_be_written(tmp_path, tiny_run):
    copied = tmp_path / "run"
    shutil.copytree(tiny_run, copied)
    assert "is the run itself" in refused(copied, copied)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "holds thesis.txt, which is not of" in refused(tiny_run, tmp_path / "mine")
    assert left(tmp_path / "mine") == ["thesis.txt"]
    (tmp_path / "mine" / "thesis.txt").rename(tmp_path / "mine" / "evaluation-thesis.txt")
    assert "holds evaluation-thesis.txt, which is not of" in refused(tiny_run, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tiny_run, tmp_path / "file")
    assert "file: is a file" in refused(tiny_run, tmp_path / "file" / "out")


def test_a_full_disk(tmp_path, ready, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "_write_graphs", full)
    assert "No space left on device" in refused(ready, tmp_path / "new" / "out")
    assert left(tmp_path) == []  # nor the folder above


def test_an_export_that_differs_from_torch(tmp_path, ready, monkeypatch):
    monkeypatch.setattr("sonodetr.export.parity.TOLERANCE", 1e-12)
    message = refused(ready, tmp_path / "out")
    assert "scores differ by" in message or "boxes_cxcywh differ by" in message


def test_an_export_that_cannot_be_compared(tmp_path, ready, monkeypatch):
    monkeypatch.setattr("sonodetr.export.parity.TOLERANCE", -1.0)
    monkeypatch.setattr("sonodetr.export.parity._TIE", 9.0)
    assert "cannot be compared with torch" in refused(ready, tmp_path / "out")


def test_an_export_takes_the_place_of_another_and_of_nothing_else(tmp_path, ready):
    out = tmp_path / "out"
    export_model(ready, out)
    (out / "evaluation-test").mkdir()
    (out / "evaluation-test" / "evaluation.json").touch()
    (out / "evaluation-test" / "thesis.txt").touch()
    assert "holds evaluation-test, which is not of" in refused(ready, out)
    (out / "evaluation-test" / "thesis.txt").unlink()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.txt, which is not of an exported model"):
        export_model(ready, out)
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    export_model(ready, out)
    assert left(tmp_path) == ["out", "thesis.txt"]


def test_a_link_to_an_earlier_export_stays_one(tmp_path, ready):
    export_model(ready, tmp_path / "first")
    before = (tmp_path / "first" / "contract.json").stat().st_ino
    (tmp_path / "current").symlink_to("first")
    export_model(ready, tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "first" / "contract.json").stat().st_ino != before
    assert left(tmp_path) == ["current", "first"]


def test_an_earlier_export_stays_until_the_new_one_is_whole(tmp_path, ready, monkeypatch):
    out = tmp_path / "out"
    export_model(ready, out)
    before = (out / "contract.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("sonodetr.export.parity.TOLERANCE", 1e-12)
        refused(ready, out)
    assert (out / "contract.json").read_bytes() == before
    contract = json.loads(before)
    # One of an older version, which could not be opened any more.
    (out / "contract.json").write_text(json.dumps(contract | {"name": "old", "format": 1}))
    export_model(ready, out)
    assert read_contract(out).name == contract["name"]
    assert left(tmp_path) == ["out"]


def test_real_frames(tmp_path, ready, tiny_video):
    contract = export_model(ready, tmp_path / "out", check=tiny_video)
    assert contract.parity["frames"] == {"simulated": 6, "real": 13, "undecided": 0}


def test_the_data_of_the_training_is_looked_at_where_it_still_is(tmp_path, ready, tiny_video):
    run = shutil.copytree(ready, tmp_path / "run")
    data = tmp_path / "data"
    config = (run / "config.yaml").read_text()
    assert "path: ''" in config
    (run / "config.yaml").write_text(config.replace("path: ''", f"path: {data}", 1))
    assert export_model(run, tmp_path / "out").parity["frames"]["real"] == 0
    data.mkdir()
    assert "--check DATA" in refused(run, tmp_path / "out")
    shutil.copy(tiny_video, data)
    assert export_model(run, tmp_path / "out").parity["frames"]["real"] == 13


def test_the_next_export_removes_what_a_killed_one_left(tiny_run, tmp_path):
    """And leaves alone what one that still runs is writing."""
    killed, running = (tmp_path / f".out.part{each}" for each in ("dead", "alive"))
    for folder in (killed, running):
        folder.mkdir()
        (folder / "detect.onnx").write_bytes(b"half")
    with _held(running) as ours:
        assert ours
        export_model(tiny_run, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} >= {"out", running.name}
    assert not killed.exists()
