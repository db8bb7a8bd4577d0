import hashlib
import json
from dataclasses import asdict

import pytest
from exported import write_exported

from sonodetr.contract import (
    CONTRACT,
    check_files,
    graph_files,
    read_contract,
    sha256,
    write_contract,
)
from sonodetr.files import InputError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("exported") / "a")


@pytest.fixture
def changed(exported, tmp_path):
    """A folder with the contract of `exported` and some fields changed, or left out (None)."""

    def change(**changes):
        values = json.loads((exported / CONTRACT).read_text()) | changes
        kept = {name: value for name, value in values.items() if value is not None}
        (tmp_path / CONTRACT).write_text(json.dumps(kept))
        return tmp_path

    return change


def test_comes_back_as_it_was_written(exported, tmp_path):
    contract = read_contract(exported)
    assert contract.image_size == (32, 48)
    assert contract.classes == ("nerve", "vessel")
    assert contract.graphs == {"detect": "detect.onnx"}
    write_contract(tmp_path, contract)
    assert read_contract(tmp_path) == contract
    values = json.loads((tmp_path / CONTRACT).read_text())
    assert values.pop("format") == 2
    assert len(values.pop("contract_sha256")) == 64
    assert set(values) == set(asdict(contract))


def test_whole_thresholds_are_numbers_too(exported, changed):
    fields = asdict(read_contract(exported)) | {"threshold": 1}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    threshold = read_contract(changed(threshold=1, contract_sha256=digest)).threshold
    assert (threshold, type(threshold)) == (1.0, float)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.5},
        {"classes": ["nerve"]},
        {"clip_step": 10**30},
        {"provenance": {"step": 1}},
        {"contract_sha256": "0" * 64},
        {"contract_sha256": None},
    ],
)
def test_a_changed_contract_is_refused(changed, changes):
    with pytest.raises(InputError, match=r"was changed since it was written .* --threshold"):
        read_contract(changed(**changes))


def test_a_contract_laid_out_otherwise_is_the_same(exported, tmp_path):
    values = json.loads((exported / CONTRACT).read_text())
    (tmp_path / CONTRACT).write_text(json.dumps(dict(reversed(values.items()))))
    assert read_contract(tmp_path) == read_contract(exported)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"format": 3}, "is of format 3, this version of sonodetr reads format 2"),
        ({"format": None}, "is of format None"),
        ({"format": True}, "is of format True"),
        ({"nam": "x"}, "unknown field 'nam'; did you mean 'name'"),
        ({"name": None, "parity": None}, "has no field name, parity"),
        ({"name": 3}, "name is 3, but must be str"),
        ({"image_size": [64]}, r"image_size is \[64\], but must be tuple\[int, int\]"),
        ({"image_size": 64}, "image_size is 64"),
        ({"image_size": [64, 0]}, "must be at least 1"),
        ({"clip_frames": True}, "clip_frames is True, but must be int"),
        ({"clip_step": 0}, "must be at least 1"),
        ({"channels": 2}, "channels is 2; allowed: 1, 3"),
        ({"threshold": "0.5"}, "threshold is '0.5', but must be float"),
        ({"threshold": float("nan")}, "threshold is nan, but must be from 0 to 1"),
        ({"points": 1}, "points is 1, but must be bool"),
        ({"classes": []}, "names no classes"),
        ({"classes": ["nerve", 3]}, r"must be tuple\[str, ...\]"),
        ({"region": "1,2,3,4"}, "region is '1,2,3,4'; allowed: auto, full"),
        ({"runtime": "tensorrt"}, "runtime is 'tensorrt'; allowed: onnx, openvino"),
        ({"precision": "float16"}, "precision is 'float16'; allowed: float32, int8"),
        ({"graphs": {}}, "allowed: detect, or frame and clip"),
        ({"graphs": {"detect": "../detect.onnx"}}, "'../detect.onnx' is not the name of a file"),
        ({"graphs": {"detect": "detect.xml"}}, "a file of onnx ends in .onnx"),
        ({"graphs": {"detect": "other.onnx"}}, "files_sha256 does not hold other.onnx"),
        ({"files_sha256": {"detect.onnx": 7}}, r"files_sha256 is {'detect.onnx': 7}"),
        (
            {"files_sha256": {"detect.onnx": "", "../x": ""}},
            "'../x' is not the name of a file of the folder",
        ),
        (
            {"graphs": {"frame": "detect.onnx", "clip": "detect.onnx"}},
            "graphs are frame and clip, but a clip has one frame",
        ),
        (
            {
                "runtime": "openvino",
                "graphs": {"detect": "a.xml"},
                "files_sha256": {"a.xml": "", "b.bin": ""},
            },
            "files_sha256 does not hold a.bin",
        ),
    ],
)
def test_contracts_that_cannot_be_used(changed, changes, line):
    folder = changed(**changes)
    with pytest.raises(InputError, match=f"contract.json: .*{line}") as error:
        read_contract(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "the file is empty"),
        ("{", "not valid JSON at line 1"),
        ("[]", "holds no fields"),
        ("null", "holds no fields"),
    ],
)
def test_files_that_are_no_contract(tmp_path, text, line):
    (tmp_path / CONTRACT).write_text(text)
    with pytest.raises(InputError, match=f"contract.json: {line}"):
        read_contract(tmp_path)


def test_every_byte_counts(exported, tmp_path):
    contract = read_contract(exported)
    check_files(exported, contract)
    data = bytearray((exported / "detect.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "detect.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"detect.onnx: is not the file that contract.json was"):
        check_files(tmp_path, contract)
    (tmp_path / "detect.onnx").unlink()
    with pytest.raises(InputError, match=r"detect.onnx: no such file"):
        check_files(tmp_path, contract)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert sha256(tmp_path / "a").startswith("ba7816bf")


def test_files_of_a_graph():
    assert graph_files("onnx", "a.b.onnx") == ("a.b.onnx",)
    assert graph_files("openvino", "a.b.xml") == ("a.b.xml", "a.b.bin")
