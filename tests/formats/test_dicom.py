"""DICOM: files written by other tools against pydicom's own decoding, and values set by hand."""

import hashlib
import io
import logging
import multiprocessing
import pickle
import random
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, convert_color_space, pixel_array
from pydicom.sequence import Sequence

from sonodetr.files import InputError
from sonodetr.formats.dicom import DicomFrames, read_dicom
from sonodetr.types import Region, Spacing

ROWS, COLUMNS, COUNT = 46, 34, 7


def shipped(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this version of pydicom does not ship {name}")
    return Path(str(path))


def rgb_of(file: Path, index: int = 0) -> np.ndarray:
    return pixel_array(pydicom.dcmread(file), index=index)


# Files of other tools. In brackets: transfer syntax, photometric interpretation.
EXACT = [
    "ExplVR_BigEnd.dcm",  # big endian, RGB by plane
    "SC_rgb_small_odd_big_endian.dcm",  # big endian, RGB, frames of an odd number of bytes
    "SC_rgb_small_odd.dcm",  # explicit little endian, RGB
    "SC_rgb_jpeg_dcmd.dcm",  # implicit little endian, RGB
    "SC_ybr_full_422_uncompressed.dcm",  # explicit little endian, YBR_FULL_422
    "image_dfl.dcm",  # deflated, MONOCHROME2
    "SC_rgb_rle.dcm",  # RLE, RGB
    "SC_rgb_rle_2frame.dcm",  # RLE, RGB, two frames
    "SC_rgb_jpeg_gdcm.dcm",  # JPEG Lossless, RGB
    "JPEGLSNearLossless_08.dcm",  # JPEG-LS near lossless, MONOCHROME2
    "SC_rgb_jls_lossy_line.dcm",  # JPEG-LS near lossless, RGB, by line
    "SC_rgb_jls_lossy_sample.dcm",  # JPEG-LS near lossless, RGB, by sample
    "GDCMJ2K_TextGBR.dcm",  # JPEG 2000 lossless, YBR_RCT
    "examples_jpeg2k.dcm",  # JPEG 2000 lossless, YBR_RCT
    "SC_rgb_gdcm_KY.dcm",  # JPEG 2000, RGB
    "examples_rgb_color.dcm",  # explicit little endian, RGB
    "SC_rgb_jpeg.dcm",  # JPEG Baseline, RGB, implicit where explicit is promised
]
BASELINE = [
    "SC_jpeg_no_color_transform.dcm",  # RGB
    "SC_rgb_dcmtk_+eb+cr.dcm",  # RGB
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",  # YBR_FULL
    "SC_rgb_dcmtk_+eb+cy+np.dcm",  # YBR_FULL_422
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",  # YBR_FULL
    "SC_rgb_jpeg_lossy_gdcm.dcm",  # YBR_FULL
    "SC_rgb_small_odd_jpeg.dcm",  # YBR_FULL
]


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
@pytest.mark.parametrize("name", EXACT + BASELINE)
def test_8_bit_files_of_other_tools(name: str) -> None:
    (video,) = read_dicom(shipped(name))
    for index in reversed(range(len(video))):
        reference = rgb_of(shipped(name), index)
        shown = video.frames[index]
        assert shown.dtype == np.uint8
        assert shown.shape[:2] == video.frames.size
        apart = np.abs(shown.astype(int) - reference)
        assert apart.max() <= (1 if name in BASELINE else 0)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_implicit.dcm",
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_jp2klossless.dcm",
        "693_J2KI.dcm",  # 14 bits
        "J2K_pixelrep_mismatch.dcm",  # 13 bits
        "examples_overlay.dcm",  # 12 bits
    ],
)
def test_16_bits_through_the_window_of_the_file(name: str) -> None:
    header = pydicom.dcmread(shipped(name))
    centre, width = (
        float(np.ravel(value)[0]) for value in (header.WindowCenter, header.WindowWidth)
    )
    values = header.pixel_array * float(header.get("RescaleSlope", 1))
    values += float(header.get("RescaleIntercept", 0))
    # PS3.3 C.11.2.1.2.1
    share = (values - (centre - 0.5)) / (width - 1) + 0.5
    (video,) = read_dicom(shipped(name))
    assert np.abs(video.frames[0] - share.clip(0, 1) * 255).max() <= 0.5 + 1e-9
    assert video.spacing_mm == Spacing(*(float(value) for value in header.PixelSpacing))


def test_near_lossless_16_bits_without_a_window() -> None:
    file = shipped("JPEGLSNearLossless_16.dcm")
    (video,) = read_dicom(file)
    np.testing.assert_array_equal(video.frames[0], np.rint(rgb_of(file) / 257.0))


def test_16_bit_colour_spreads_over_the_whole_range() -> None:
    file = shipped("SC_rgb_rle_16bit_2frame.dcm")
    (video,) = read_dicom(file)
    assert len(video) == 2
    np.testing.assert_array_equal(video.frames[1], np.rint(rgb_of(file, 1) / 257.0))


def test_palette() -> None:
    header = pydicom.dcmread(shipped("examples_palette.dcm"))
    (video,) = read_dicom(shipped("examples_palette.dcm"))
    reference = apply_color_lut(header.pixel_array, header)
    np.testing.assert_array_equal(video.frames[0], reference >> 8)
    assert video.region_px == Region(120, 60, 800, 350)
    assert video.spacing_mm is None  # the header places the region down to row 518 of 350


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "liver_expb_1frame.dcm"])
def test_one_bit(name: str) -> None:
    (video,) = read_dicom(shipped(name))
    np.testing.assert_array_equal(video.frames[0], 255 * rgb_of(shipped(name)))


def test_echocardiography_cine() -> None:
    file = shipped("examples_ybr_color.dcm")
    (video,) = read_dicom(file)
    assert (len(video), video.frames.size) == (30, (240, 320))
    assert video.frame_rate_hz == pytest.approx(1000 / 33.333)
    assert video.times_s[29] == pytest.approx(29 * 0.033333)
    # Its header places the region at x 84 to 595 of a frame that is 320 wide.
    assert (video.region_px, video.spacing_mm) == (None, None)
    for index in random.Random(5).sample(range(30), 11):
        apart = np.abs(video.frames[index].astype(int) - rgb_of(file, index))
        assert apart.max() <= 1


# Files written here, for what no shipped file has


def pictures(count: int = COUNT, channels: int = 1, kind: str = "u1", bits: int = 8) -> np.ndarray:
    shape = (count, ROWS, COLUMNS, channels)[: 3 if channels == 1 else 4]
    return np.random.default_rng(11).integers(0, 2**bits, shape).astype(kind)


def dataset(stored: np.ndarray, colours: str = "MONOCHROME2", bits: int = 8) -> FileDataset:
    header = FileDataset("", {}, preamble=bytes(128), file_meta=FileMetaDataset())
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    header.SOPInstanceUID = uid.generate_uid(entropy_srcs=["sonodetr"])
    header.PatientID = "Tibbs-4711"
    header.NumberOfFrames = len(stored)
    header.Rows, header.Columns = stored.shape[1:3]
    header.SamplesPerPixel = 1 if stored.ndim == 3 else 3
    header.PhotometricInterpretation = colours
    if stored.ndim == 4:
        header.PlanarConfiguration = 0
    header.BitsAllocated = 8 * stored.itemsize
    header.BitsStored, header.HighBit = bits, bits - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.PixelData = stored.tobytes()
    header["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    return header


def saved(folder: Path, header: Dataset, name: str = "cine.dcm") -> Path:
    syntax = header.file_meta.TransferSyntaxUID
    header.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, "iso8859")
    header.save_as(folder / name, enforce_file_format=True)
    return folder / name


def with_frames(header: FileDataset, syntax: str, encoded: list[bytes], **how: Any) -> FileDataset:
    header.file_meta.TransferSyntaxUID = syntax
    header.PixelData = encapsulate(encoded, **how)
    header["PixelData"].is_undefined_length = True
    header["PixelData"].VR = "OB"
    return header


def jpegs(stored: np.ndarray, **options: Any) -> list[bytes]:
    encoded = []
    for picture in stored:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", **options)
        encoded.append(buffer.getvalue())
    return encoded


def check(frames: DicomFrames, reference: np.ndarray, tolerance: int = 0) -> None:
    assert len(frames) == len(reference)
    for index in random.Random(7).sample(range(len(frames)), len(frames)):
        apart = np.abs(frames[index].astype(int) - reference[index])
        assert apart.max() <= tolerance, index


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_in_any_order(tmp_path: Path, syntax: uid.UID, channels: int) -> None:
    stored = pictures(channels=channels)
    header = dataset(stored, "RGB" if channels == 3 else "MONOCHROME2")
    if syntax.is_encapsulated:
        header.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    header.file_meta.TransferSyntaxUID = syntax
    check(read_dicom(saved(tmp_path, header))[0].frames, stored)


def test_planes_of_colour(tmp_path: Path) -> None:
    stored = pictures(channels=3)
    header = dataset(stored, "RGB")
    header.PlanarConfiguration = 1
    header.PixelData = np.moveaxis(stored, -1, 1).tobytes()
    check(read_dicom(saved(tmp_path, header))[0].frames, stored)


def test_ybr_full_without_compression(tmp_path: Path) -> None:
    stored = pictures(channels=3)
    (video,) = read_dicom(saved(tmp_path, dataset(stored, "YBR_FULL")))
    check(video.frames, convert_color_space(stored, "YBR_FULL", "RGB"))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = pictures()
    (video,) = read_dicom(saved(tmp_path, dataset(stored, "MONOCHROME1")))
    check(video.frames, 255 - stored)


@pytest.mark.parametrize(
    ("kind", "bits", "low"), [("u2", 12, 0), ("u2", 16, 0), ("i2", 16, -32768)]
)
def test_deep_values_spread_over_the_stored_bits(
    tmp_path: Path, kind: str, bits: int, low: int
) -> None:
    stored = pictures(kind="u2", bits=bits).view(kind)
    (video,) = read_dicom(saved(tmp_path, dataset(stored, bits=bits)))
    share = (stored.astype(float) - low) / (2**bits - 1)
    check(video.frames, np.rint(share * 255).astype(int))
    assert len(pickle.dumps(video.frames)) < 70_000


def test_rescale_and_window(tmp_path: Path) -> None:
    stored = pictures()
    header = dataset(stored)
    header.RescaleSlope, header.RescaleIntercept = 2, -10
    header.WindowCenter, header.WindowWidth = [200.5, 1], [101, 1]  # the first one counts
    share = ((stored * 2.0 - 10) - 200) / 100 + 0.5
    (video,) = read_dicom(saved(tmp_path, header))
    check(video.frames, np.rint(share.clip(0, 1) * 255).astype(int))


def test_voi_table(tmp_path: Path) -> None:
    stored = pictures()
    header = dataset(stored)
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = [(value * value) >> 8 for value in range(256)]
    item["LUTData"].VR = "US"
    header.VOILUTSequence = Sequence([item])
    (video,) = read_dicom(saved(tmp_path, header))
    squared = stored.astype(int) ** 2 >> 8
    check(video.frames, squared)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"has_bot": False},
        {"fragments_per_frame": 3},
        {"fragments_per_frame": 3, "has_bot": False},
    ],
)
def test_jpeg_in_one_or_many_pieces(tmp_path: Path, syntax: uid.UID, how: dict[str, Any]) -> None:
    encoded = jpegs(pictures(), quality=90)
    header = with_frames(dataset(pictures()), syntax, encoded, **how)
    reference = np.stack([np.array(Image.open(io.BytesIO(data))) for data in encoded])
    check(read_dicom(saved(tmp_path, header))[0].frames, reference)


def test_jpeg_2000_with_irreversible_colour(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    stored = np.stack([rows * 9, columns * 5, (rows + columns) * 3], -1)[None].astype(np.uint8)
    header = dataset(stored, "YBR_ICT")
    header.compress(uid.JPEG2000, j2k_cr=[2])
    assert header.PhotometricInterpretation == "YBR_ICT"
    check(read_dicom(saved(tmp_path, header))[0].frames, stored, tolerance=6)


def test_only_the_wanted_frame_is_read(tmp_path: Path) -> None:
    encoded = jpegs(pictures(23), quality=90)
    wanted = 13
    ruined = [
        data if i == wanted else b"\xff" * (len(data) - 2) + b"\xff\xd9"
        for i, data in enumerate(encoded)
    ]
    header = with_frames(dataset(pictures(23)), uid.JPEGBaseline8Bit, ruined)
    (video,) = read_dicom(saved(tmp_path, header))
    reference = np.array(Image.open(io.BytesIO(encoded[wanted])))
    np.testing.assert_array_equal(video.frames[wanted], reference)
    with pytest.raises(
        InputError, match=r"cine\.dcm: frame 12 of 23 cannot be decoded \(JPEG Base"
    ):
        video.frames[12]


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_memory_does_not_grow_with_the_loop(tmp_path: Path, syntax: uid.UID) -> None:
    picture = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    peaks = []
    for count in (20, 200):
        header = dataset(np.repeat(picture[None], count, 0))
        if syntax.is_encapsulated:
            header.compress(syntax, encoding_plugin="pylibjpeg")
        header.file_meta.TransferSyntaxUID = syntax
        file = saved(tmp_path, header, f"{count}.dcm")
        read_dicom(shipped("image_dfl.dcm"))[0].frames[0]  # imports
        tracemalloc.start()
        (video,) = read_dicom(file)
        for index in range(0, count, 7):
            np.testing.assert_array_equal(video.frames[index], picture)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # 200 frames are 13 MB


def sums(frames: DicomFrames) -> list[int]:
    return [int(frames[index].astype(int).sum()) for index in range(len(frames))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_data_workers(tmp_path: Path, method: str) -> None:
    header = dataset(pictures())
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    frames = read_dicom(saved(tmp_path, header))[0].frames
    expected = [int(picture.sum()) for picture in pictures().astype(int)]
    assert sums(frames) == expected
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = [pool.apply_async(sums, (frames,)) for _ in range(2)]
        assert [result.get(60) for result in results] == [expected, expected]


# Times, calibration, patient


def times(tmp_path: Path, **elements: Any) -> list[float]:
    header = dataset(pictures())
    for name, value in elements.items():
        setattr(header, name, value)
    return read_dicom(saved(tmp_path, header))[0].times_s.tolist()


def test_times(tmp_path: Path) -> None:
    steady = pytest.approx([index * 0.05 for index in range(COUNT)])
    assert times(tmp_path, FrameTime=50) == steady
    assert times(tmp_path, CineRate=20) == steady
    assert times(tmp_path, RecommendedDisplayFrameRate=20) == steady
    assert times(tmp_path, FrameTime=50, CineRate=7) == steady
    uneven = times(tmp_path, FrameTimeVector=[0, 10, 20, 30, 40, 50, 60])
    assert uneven == pytest.approx([0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.21])
    assert times(tmp_path, FrameTimeVector=[0, 10], FrameTime=50) == steady  # too few steps
    assert times(tmp_path) == [0] * COUNT
    for nonsense in (1e-300, 1e20):
        assert times(tmp_path, FrameTime=nonsense) == [0] * COUNT
        assert times(tmp_path, FrameTime=nonsense, CineRate=20) == steady


def test_films_are_not_read(tmp_path: Path) -> None:
    header = dataset(pictures())
    header.PixelData = encapsulate([b"a film in one piece"])
    header.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    with pytest.raises(InputError, match=r"compressed as MPEG-4 .* are not read; convert"):
        read_dicom(saved(tmp_path, header))


def region(x0: int, y0: int, x1: int, y1: int, **elements: Any) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = 1, 1
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, -0.03
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def calibrated(tmp_path: Path, *items: Dataset, **elements: Any) -> Any:
    header = dataset(pictures())
    header.SequenceOfUltrasoundRegions = Sequence(items)
    for name, value in elements.items():
        setattr(header, name, value)
    (video,) = read_dicom(saved(tmp_path, header))
    return video.region_px, video.spacing_mm and tuple(np.round(video.spacing_mm, 6))


def test_calibration_is_that_of_the_largest_tissue_region(tmp_path: Path) -> None:
    small = region(0, 0, 3, 4, PhysicalDeltaX=0.5)
    large = region(5, 2, 30, 20)
    trace = region(0, 0, 33, 21, RegionSpatialFormat=3)
    flow = region(0, 0, 33, 21, RegionDataType=2)
    assert calibrated(tmp_path, small, large, trace, flow) == (Region(5, 2, 31, 21), (0.3, 0.2))
    assert calibrated(tmp_path, trace) == (None, None)
    cropped = region(0, 2, 99, 20)
    assert calibrated(tmp_path, cropped) == (Region(0, 2, COLUMNS, 21), None)
    reduced = region(0, 2, 99, 99)
    assert calibrated(tmp_path, reduced) == (None, None)
    slip = region(0, 2, COLUMNS, 20)
    assert calibrated(tmp_path, slip) == (Region(0, 2, COLUMNS, 21), (0.3, 0.2))
    seconds = region(5, 2, 30, 20, PhysicalUnitsXDirection=4)
    assert calibrated(tmp_path, seconds) == (Region(5, 2, 31, 21), None)
    assert calibrated(tmp_path, seconds, PixelSpacing=[0.7, 0.5])[1] == (0.7, 0.5)
    assert calibrated(tmp_path, PixelSpacing=[0.7, 0.5]) == (None, (0.7, 0.5))
    assert calibrated(tmp_path, PixelSpacing=[0, 0.5]) == (None, None)


def test_the_patient_stays_unknown(tmp_path: Path) -> None:
    header = dataset(pictures())
    (first,) = read_dicom(saved(tmp_path, header))
    header.StudyDescription = "another visit"
    assert read_dicom(saved(tmp_path, header))[0].patient == first.patient
    assert len(first.patient) == 12
    assert hashlib.sha256(b"Tibbs-4711").hexdigest()[:12] != first.patient
    assert b"Tibbs" not in pickle.dumps(first)
    header.IssuerOfPatientID = "elsewhere"
    assert read_dicom(saved(tmp_path, header))[0].patient != first.patient
    header.PatientID = ""
    assert read_dicom(saved(tmp_path, header))[0].patient is None


def test_header_text_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    header = dataset(pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.StudyInstanceUID = "Tibbs.not.a.uid"
        header.StudyDate = "Tibbs"
        header.NumberOfFrames = str(COUNT)
        file = saved(tmp_path, header)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"MONOCHROME2 ", b"MONOCHROME2Z"))  # is refused
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(InputError) as caught:
            read_dicom(file)[0].frames[0]
    written = caplog.text + "".join(capfd.readouterr()) + str(caught.value)
    assert "Tibbs" not in written + "".join(str(warning.message) for warning in warned)
    assert not logging.getLogger("pydicom").disabled


# Bad input


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    for name in ("study/IM10", "study/IM9", "b.dcm"):
        saved(tmp_path, dataset(pictures()), name)
    (tmp_path / "README").write_text("not DICOM")
    (tmp_path / "report.dcm").write_bytes(shipped("reportsi.dcm").read_bytes())
    assert [video.key for video in read_dicom(tmp_path)] == ["b.dcm", "study/IM9", "study/IM10"]
    (tmp_path / "broken.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"broken\.dcm: the file is empty"):
        read_dicom(tmp_path)


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reportsi\.dcm: this DICOM file holds no pictures"):
        read_dicom(shipped("reportsi.dcm"))
    with pytest.raises(InputError, match="holds no pictures"):
        read_dicom(shipped("DICOMDIR"))
    (tmp_path / "report.dcm").write_bytes(shipped("reportsi.dcm").read_bytes())
    with pytest.raises(InputError, match="holds no DICOM file with pictures"):
        read_dicom(tmp_path)


def test_truncated_by_another_tool() -> None:
    with pytest.raises(InputError, match=r"MR_truncated\.dcm: cut short, 62 bytes"):
        read_dicom(shipped("MR_truncated.dcm"))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
def test_truncated(tmp_path: Path, compressed: bool, share: float) -> None:
    header = dataset(pictures())
    if compressed:
        header = with_frames(header, uid.JPEGBaseline8Bit, jpegs(pictures()))
    file = saved(tmp_path, header)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as caught:
        read_dicom(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_truncated_deflated(tmp_path: Path) -> None:
    header = dataset(pictures())
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    file = saved(tmp_path, header)
    file.write_bytes(file.read_bytes()[:-999])
    with pytest.raises(InputError, match="compressed data are cut short"):
        read_dicom(file)


@pytest.mark.parametrize(
    ("element", "value", "said"),
    [
        ("Rows", 60_000, "claims 34 x 60000|claims 7 frames"),
        ("NumberOfFrames", 10**9, "claims 1000000000 frames"),
        ("BitsAllocated", 32, "bits a value in 32; allowed are 1, 8 and 16"),
        ("PhotometricInterpretation", "CMYK", "CMYK.*allowed are MONOCHROME1"),
    ],
)
def test_claims_of_the_header(tmp_path: Path, element: str, value: Any, said: str) -> None:
    header = dataset(pictures())
    setattr(header, element, value)
    with pytest.raises(InputError, match=said):
        read_dicom(saved(tmp_path, header))[0].frames[0]


def test_a_giant_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = with_frames(dataset(pictures(1)), uid.JPEGBaseline8Bit, jpegs(pictures(1)))
    header.Rows = header.Columns = 60_000
    with pytest.raises(InputError, match="header claims 60000 x 60000 pixels"):
        read_dicom(saved(tmp_path, header))


def test_a_picture_of_another_size_than_its_header(tmp_path: Path) -> None:
    header = with_frames(dataset(pictures(1)), uid.JPEGBaseline8Bit, jpegs(pictures(1)))
    header.Rows = 2 * ROWS
    with pytest.raises(InputError, match="frame 0 of 1 cannot be decoded"):
        read_dicom(saved(tmp_path, header))[0].frames[0]


def test_a_decoder_that_panics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder written in Rust raises then is no Exception."""

    class PanicError(BaseException):
        pass

    class Decoder:
        UID, available_plugins = uid.JPEGBaseline8Bit, ("pydicom",)

        def as_array(self, *given: Any, **options: Any) -> Any:
            raise raised

    header = with_frames(dataset(pictures(1)), uid.JPEGBaseline8Bit, jpegs(pictures(1)))
    video = read_dicom(saved(tmp_path, header))[0]
    monkeypatch.setattr("sonodetr.formats.dicom.get_decoder", lambda syntax: Decoder())
    raised: BaseException = PanicError("index out of bounds")
    with pytest.raises(InputError, match="frame 0 of 1 cannot be decoded"):
        video.frames[0]
    raised = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        video.frames[0]


def test_files_that_are_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "zero.dcm").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("no DICOM")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "zero.dcm": "0 bytes",
        "text.dcm": "is not a DICOM file",
        "empty": "holds no DICOM file with pictures",
        "absent.dcm": "no such file",
    }.items():
        with pytest.raises(InputError, match=said):
            read_dicom(tmp_path / name)


def is_read(file: Path) -> bool:
    try:
        return all(frame.dtype == np.uint8 for frame in read_dicom(file)[0].frames)
    except InputError:
        return False


def test_every_shipped_file_is_read_or_refused() -> None:
    files = sorted(shipped("MR_small.dcm").parent.glob("*.dcm"))
    refused = {file.name for file in files if not is_read(file)}
    # 12 bits in JPEG Extended, which no decoder with a permissive licence reads.
    assert {"JPGExtended.dcm", "JPEG-lossy.dcm"} <= refused
    assert len(files) - len(refused) >= 40
