"""MetaImage: PLUS sequences, hand-made files of every type, orientation, and faults."""

import multiprocessing
import pickle
import random
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats.inflate import ZLIB, inflated
from sonodetr.formats.metaimage import MetaImageFrames, read_metaimage
from sonodetr.types import Spacing

ROWS, COLUMNS, COUNT = 11, 17, 7


def pictures(kind: str = "u1", channels: int = 1, count: int = COUNT) -> np.ndarray:
    shape = (count, ROWS, COLUMNS, channels)[: 3 if channels == 1 else 4]
    return np.random.default_rng(13).integers(0, 100, shape).astype(kind)


def header(values: np.ndarray, **fields: Any) -> dict[str, Any]:
    """The fields of a picture sequence; None leaves one out."""
    names = {"u1": "UCHAR", "i1": "CHAR", "u2": "USHORT", "i2": "SHORT", "f4": "FLOAT"}
    count, rows, columns = values.shape[:3]
    given = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "DimSize": f"{columns} {rows} {count}",
        "ElementSpacing": "1 1 1",
        "ElementType": f"MET_{names.get(values.dtype.str[1:], 'UCHAR')}",
        **({"ElementNumberOfChannels": 3} if values.ndim == 4 else {}),
        **fields,
    }
    return {name: value for name, value in given.items() if value is not None}


def written(
    file: Path, values: np.ndarray, compress: bool = False, data: bytes | None = None, **fields: Any
) -> Path:
    data = values.tobytes() if data is None else data
    if compress:
        data = zlib.compress(data)
        fields = {"CompressedData": "True", "CompressedDataSize": len(data), **fields}
    lines = header(values, **fields)
    lines["ElementDataFile"] = lines.pop("ElementDataFile", "LOCAL")  # always the last one
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    file.write_bytes(text.encode() + (data if lines["ElementDataFile"] == "LOCAL" else b""))
    return file


def check(frames: MetaImageFrames, reference: np.ndarray) -> None:
    assert len(frames) == len(reference)
    for index in random.Random(7).sample(range(len(frames)), len(frames)):
        shown = frames[index]
        assert shown.dtype == np.uint8
        assert shown.shape[:2] == frames.size
        np.testing.assert_array_equal(shown, reference[index])


# Real sequences, written by PLUS


@pytest.mark.parametrize(
    ("name", "count", "size", "rate_hz"),
    [
        ("SegmentationTest_VLCUS_RandomStepperMotionData2.igs.mha", 201, (480, 640), None),
        ("WaterTankBottomTranslationVideoBuffer.igs.mha", 201, (616, 820), 11.4828),
        ("NwirePhantomFreehand.igs.mha", 97, (616, 820), 9.4534),
    ],
)
def test_plus_sequences(
    data_folder: Callable[[str], Path],
    name: str,
    count: int,
    size: tuple[int, int],
    rate_hz: float | None,
) -> None:
    file = data_folder("plus") / name
    (video,) = read_metaimage(file)
    assert (len(video), video.frames.size) == (count, size)
    assert video.spacing_mm is None  # the files say 1 1 1
    assert video.frame_rate_hz == (rate_hz and pytest.approx(rate_hz, abs=1e-3))
    data = file.read_bytes()
    start = data.index(b"ElementDataFile = LOCAL\n") + len(b"ElementDataFile = LOCAL\n")
    whole = np.frombuffer(zlib.decompress(data[start:]), np.uint8).reshape(count, *size)
    for index in random.Random(3).sample(range(count), 23):
        np.testing.assert_array_equal(video.frames[index], whole[index])


def test_times_of_the_water_tank(data_folder: Callable[[str], Path]) -> None:
    (video,) = read_metaimage(data_folder("plus") / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    np.testing.assert_allclose(video.times_s[:3], [0, 0.085114, 0.170929], atol=1e-6)


# Hand-made files


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_in_any_order(tmp_path: Path, compress: bool, channels: int) -> None:
    values = pictures(channels=channels)
    (video,) = read_metaimage(written(tmp_path / "a.mha", values, compress))
    assert (video.key, video.frame_rate_hz) == ("a.mha", None)
    check(video.frames, values)
    check(pickle.loads(pickle.dumps(video.frames)), values)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", ["<i1", "<u2", "<i2", ">u2", "<f4", ">f4"])
def test_other_types_are_scaled_over_the_recording(
    tmp_path: Path, compress: bool, kind: str
) -> None:
    values = pictures("i2") - (20 if "u" not in kind else 0)
    order = {"BinaryDataByteOrderMSB": str(kind[0] == ">")}
    (video,) = read_metaimage(written(tmp_path / "a.mha", values.astype(kind), compress, **order))
    low, high = values.min(), values.max()
    check(video.frames, np.rint((values - low) / (high - low) * 255))


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    values = pictures("f4")
    values[2, 3, 5], values[3, 3, 5], values[4, 3, 5] = np.nan, np.inf, -np.inf
    (video,) = read_metaimage(written(tmp_path / "a.mha", values))
    assert [video.frames[index][3, 5] for index in (2, 3, 4)] == [0, 255, 0]
    with pytest.raises(InputError, match="not one value"):
        read_metaimage(written(tmp_path / "a.mha", values * np.nan))


def test_one_value_everywhere(tmp_path: Path) -> None:
    (video,) = read_metaimage(written(tmp_path / "a.mha", np.full((3, ROWS, COLUMNS), 9, "<i2")))
    check(video.frames, np.zeros((3, ROWS, COLUMNS)))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        ("MFA", lambda picture: picture),
        ("XX", lambda picture: picture),
        ("UF", lambda picture: picture[:, ::-1]),
        ("MN", lambda picture: picture[::-1]),
        ("UND", lambda picture: picture[::-1, ::-1]),
        ("FM", lambda picture: picture.T),
        ("FU", lambda picture: picture.T[:, ::-1]),
        ("NM", lambda picture: picture.T[::-1]),
        ("NU", lambda picture: picture.T[::-1, ::-1]),
    ],
)
def test_depth_goes_down_and_the_mark_is_on_the_right(
    tmp_path: Path, orientation: str, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    values = pictures()
    fields = {"UltrasoundImageOrientation": orientation, "ElementSpacing": "0.2 0.3 1"}
    (video,) = read_metaimage(written(tmp_path / "a.mha", values, **fields))
    check(video.frames, np.stack([turn(picture) for picture in values]))
    turned = orientation[0] in "FN"
    assert video.frames.size == ((COLUMNS, ROWS) if turned else (ROWS, COLUMNS))
    assert video.spacing_mm == (Spacing(0.2, 0.3) if turned else Spacing(0.3, 0.2))


def test_orientation_by_its_meaning(tmp_path: Path) -> None:
    # One bright pixel that lies deep and at the marked side, stored as each orientation has it.
    for orientation in ("MF", "UF", "MN", "UN", "FM", "FU", "NM", "NU"):
        picture = np.zeros((1, ROWS, COLUMNS), np.uint8)
        column, row = (-1 if letter in "MF" else 0 for letter in orientation)
        picture[0, row, column] = 255
        fields = {"UltrasoundImageOrientation": orientation}
        (video,) = read_metaimage(written(tmp_path / "a.mha", picture, **fields))
        assert video.frames[0][-1, -1] == 255, orientation


def test_time_stamps(tmp_path: Path) -> None:
    stamps = [5.0, 5.1, 5.1, 5.0, 5.4, 5.5, 5.6]  # the clock went back once
    fields = {f"Seq_Frame{index:04d}_Timestamp": stamp for index, stamp in enumerate(stamps)}
    (video,) = read_metaimage(written(tmp_path / "a.mha", pictures(), **fields))
    np.testing.assert_allclose(video.times_s, [0, 0.1, 0.1, 0.1, 0.4, 0.5, 0.6], atol=1e-9)
    del fields["Seq_Frame0003_Timestamp"]
    (video,) = read_metaimage(written(tmp_path / "a.mha", pictures(), **fields))
    assert not video.times_s.any()


def test_shapes_with_two_and_four_axes(tmp_path: Path) -> None:
    one = pictures(count=1)
    check(read_metaimage(written(tmp_path / "a.mha", one, DimSize="17 11"))[0].frames, one)
    values = pictures()
    check(
        read_metaimage(written(tmp_path / "b.mha", values, DimSize="17 11 1 7"))[0].frames, values
    )


@pytest.mark.parametrize("skipped", [0, 23, -1])
def test_header_and_data_apart(tmp_path: Path, skipped: int) -> None:
    values = pictures()
    (tmp_path / "a.raw").write_bytes(bytes(23 if skipped else 0) + values.tobytes())
    fields = {"ElementDataFile": "a.raw", "HeaderSize": skipped}
    check(read_metaimage(written(tmp_path / "a.mhd", values, **fields))[0].frames, values)


def test_header_and_compressed_data_apart(tmp_path: Path) -> None:
    values = pictures()
    (tmp_path / "a.zraw").write_bytes(zlib.compress(values.tobytes()))
    fields = {"ElementDataFile": "a.zraw", "CompressedData": "True"}
    check(read_metaimage(written(tmp_path / "a.mhd", values, **fields))[0].frames, values)


# Memory, processes


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    picture = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    peaks = []
    for count in (20, 200):
        values = np.repeat(picture[None], count, 0)
        file = written(tmp_path / f"{count}.mha", values, compress=True)
        tracemalloc.start()
        (video,) = read_metaimage(file)
        for index in range(0, count, 7):
            np.testing.assert_array_equal(video.frames[index], picture)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 3_000_000  # 200 frames are 13 MB; chunks of 1 MB go through


def test_inflated_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    values = pictures()
    file = written(tmp_path / "a.mha", values, compress=True)
    (video,) = read_metaimage(file)
    first = inflated(str(file), video.frames.offset, ZLIB, values.nbytes)
    video.frames[3]
    assert inflated(str(file), video.frames.offset, ZLIB, values.nbytes) is first
    assert not list((tmp_path / "temporary").iterdir())  # nameless
    (video,) = read_metaimage(written(file, values[:-1] + 1, compress=True))
    check(video.frames, values[:-1] + 1)


def sums(frames: MetaImageFrames) -> list[int]:
    return [int(frames[index].astype(int).sum()) for index in range(len(frames))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_data_workers(tmp_path: Path, method: str) -> None:
    frames = read_metaimage(written(tmp_path / "a.mha", pictures(), compress=True))[0].frames
    expected = sums(frames)
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = [pool.apply_async(sums, (frames,)) for _ in range(2)]
        assert [result.get(60) for result in results] == [expected, expected]


# Bad input


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"DimSize": "60000 60000 7"}, "header claims 60000 x 60000 pixels"),
        ({"DimSize": "17 11 8"}, "claims 1496 bytes of data, the file holds 1309"),
        ({"DimSize": "17 11 6"}, "claims 1122 bytes of data, the file holds 1309"),
        ({"DimSize": "17 11 -7"}, "DimSize '17 11 -7'"),
        ({"DimSize": "17 eleven 7"}, "'eleven' is not a number"),
        ({"DimSize": None}, "DimSize None"),
        ({"ElementNumberOfChannels": 2}, "with 2 channels"),
        ({"ElementType": "MET_CHAR_ARRAY"}, "allowed are MET_CHAR "),
        ({"ElementType": None}, "ElementType None"),
        ({"BinaryData": "False"}, "holds its values as text"),
        ({"UltrasoundImageOrientation": "LPS"}, "allowed are MF "),
        ({"UltrasoundImageType": "RF_IQ_LINE"}, "radio-frequency"),
        ({"ElementDataFile": "frame%03d.raw 1 7 1"}, "several files"),
        ({"ElementDataFile": "LIST"}, "several files"),
        ({"ElementDataFile": "absent.raw"}, r"absent\.raw: no such file"),
        ({"Seq_Frame0002_Timestamp": "noon"}, "'noon' is not a number"),
        ({"CompressedData": "True"}, "compressed data are damaged"),
        (
            {"CompressedData": "True", "DimSize": "17 11 1000000000000"},
            "bytes of data, the file holds 1309",
        ),
    ],
)
def test_claims_of_the_header(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    file = written(tmp_path / "a.mha", pictures(), **fields)
    with pytest.raises(InputError, match=said) as caught:
        read_metaimage(file)[0].frames[0]
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("frames", "said"), [(8, "only 1309 of"), (6, "more than the 1122")])
def test_claims_against_inflated_data(tmp_path: Path, frames: int, said: str) -> None:
    file = written(tmp_path / "a.mha", pictures(), compress=True, DimSize=f"17 11 {frames}")
    with pytest.raises(InputError, match=said):
        read_metaimage(file)[0].frames[0]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("size_given", [True, False])
def test_truncated(tmp_path: Path, compress: bool, share: float, size_given: bool) -> None:
    fields = {} if size_given else {"CompressedDataSize": None}
    file = written(tmp_path / "a.mha", pictures(), compress, **(fields if compress else {}))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut short"):
        read_metaimage(file)[0].frames[0]


def test_files_that_are_no_metaimage(tmp_path: Path) -> None:
    (tmp_path / "zero.mha").write_bytes(b"")
    (tmp_path / "text.mha").write_text("no picture\n")
    (tmp_path / "noise.mha").write_bytes(bytes(range(256)) * 999)
    (tmp_path / "a.raw").write_bytes(b"raw")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "zero.mha": "0 bytes",
        "text.mha": "is not a MetaImage",
        "noise.mha": "is not a MetaImage",
        "a.raw": "allowed endings: .mha .mhd",
        "empty": "holds no MetaImage",
        "absent.mha": "no such file",
    }.items():
        with pytest.raises(InputError, match=said):
            read_metaimage(tmp_path / name)
