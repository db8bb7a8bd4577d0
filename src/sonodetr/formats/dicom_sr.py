"""DICOM structured report: what was found in a cine, as a TID 1500 Measurement Report.

docs/formats.md shows the tree. Codes are of the standard's own context groups (DICOM PS3.16) where
they have one, and of the private scheme 99SONODETR otherwise.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from sonodetr import __version__
from sonodetr.files import InputError, whole_file
from sonodetr.formats.dicom import quietly, read_dicom, read_header
from sonodetr.geometry import line_angles_deg
from sonodetr.types import Detections

try:
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import UID, generate_uid
except ImportError as error:
    raise InputError("a DICOM report needs more packages: pip install 'sonodetr[dicom]'") from error

NOTICE = "Made by research software. Not for diagnostic use. Not verified by a person."
# Building a report takes 10 ms and 0.1 MB an object, with points 27 ms and 0.3 MB.
MAX_OBJECTS = 5_000

_SCHEME = "99SONODETR"
_FINDINGS = {
    "artery": codes.SCT.Artery,
    "bone": codes.SCT.BoneTissue,
    "catheter": codes.SCT.Catheter,
    "lung": codes.SCT.Lung,
    "muscle": codes.SCT.MuscleTissue,
    "needle": codes.SCT.Needle,
    "nerve": codes.SCT.Nerve,
    "pleura": codes.SCT.Pleura,
    "rib": codes.SCT.Rib,
    "tendon": codes.SCT.Tendon,
    "vein": codes.SCT.Vein,
    "vessel": codes.SCT.BloodVessel,
}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# May be empty in any DICOM file, and are absent in some.
_EMPTY_ALLOWED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def report_source(path: str | os.PathLike[str]) -> Dataset:
    """The header of a DICOM file that a report can be written about, for `write_report`.

    Raises:
        InputError: it is no readable DICOM file with pictures, or its header lacks or garbles what
            a report takes over: the UIDs of study, series and object, patient and study.
    """
    read_dicom(path)  # says in one line what is wrong with the file
    hint = "use the file as the scanner wrote it, or leave out --dicom-sr"
    try:
        with quietly():
            header = read_header(path)
            header.decode()  # from its character set; the report is written in UTF-8
            wrong = [name for name in _UIDS if not UID(str(header.get(name, ""))).is_valid]
            for name in _EMPTY_ALLOWED:
                if name not in header:
                    setattr(header, name, "")
        if not wrong:
            trial = _document(header, [_recording(header, [], _algorithm("", ()))], "")
            with quietly():
                trial.save_as(BytesIO(), enforce_file_format=True)
    except Exception as error:
        # At unusual values the libraries raise anything; the messages quote the header, which names
        # the patient, and are not repeated.
        raise InputError(
            f"{path}: its header holds something that a report cannot take over "
            f"({type(error).__name__}); {hint}"
        ) from error
    if wrong:
        raise InputError(
            f"{path}: the header has no valid {', '.join(wrong)}, and a report must name what it "
            f"is about; {hint}"
        )
    return header


def write_report(
    path: str | os.PathLike[str],
    source: Dataset,
    detections: Sequence[Detections],
    model_name: str,
    parameters: Sequence[str] = (),
) -> None:
    """Write the report (a Comprehensive SR), whole or not at all.

    Every object in every frame is a group of TID 1410 with its box; one with known points has a
    second group, of TID 1501, with tip, entry, angle and length. Both carry the same tracking UID,
    which an object with a track id keeps through the recording. Coordinates are in pixels of the
    source's frames, from the outer corner of its first pixel.

    Args:
        path: ends in `.dcm`.
        source: header of the recording, from `report_source`.
        detections: one for every frame that was looked at; `frame_index`, from 0, says which.
        model_name: to tell its reports from others.
        parameters: of the algorithm, in words, such as "threshold 0.3".

    Raises:
        InputError: there are more than `MAX_OBJECTS`, or the file cannot be written.
        ValueError: a frame is none of the source's.

    >>> source = report_source("cine.dcm")  # doctest: +SKIP
    >>> found = list(sonodetr.load("runs/nerves").predict("cine.dcm"))  # doctest: +SKIP
    >>> write_report("report.dcm", source, found, "nerves")  # doctest: +SKIP
    """
    length = int(source.get("NumberOfFrames") or 1)
    if any(not 0 <= found.frame_index < length for found in detections):
        raise ValueError(f"{path}: detections in a frame that the source of {length} does not have")
    count = sum(map(len, detections))
    if count > MAX_OBJECTS:
        raise InputError(
            f"{path}: {count} detections, a report holds at most {MAX_OBJECTS}; raise --threshold"
        )
    algorithm = _algorithm(model_name, parameters)
    groups = [_recording(source, detections, algorithm)]
    tracks: dict[int, str] = {}
    for found in detections:
        for row in range(len(found)):
            groups += _object(source, found, row, algorithm, tracks)
    document = _document(source, groups, model_name)
    with whole_file(path) as part, quietly():
        document.save_as(part, enforce_file_format=True)


def _document(source: Dataset, groups: list[Any], model_name: str) -> Any:
    device = sr.DeviceObserverIdentifyingAttributes(
        # The same for one name of a model in one version.
        uid=f"2.25.{uuid5(NAMESPACE_URL, f'sonodetr {__version__} {model_name}').int}",
        name=f"SonoDETR {__version__}",
        manufacturer_name="SonoDETR",
        model_name=_text(model_name),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=codes.cid100.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.cid7021.ImagingMeasurementReport,
        referenced_images=[source],
    )
    report[0].ContentSequence.append(_notice())
    with _silent():
        return sr.ComprehensiveSR(
            evidence=[source],
            content=report[0],
            series_instance_uid=generate_uid(prefix=None),
            series_number=1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="SonoDETR",
            manufacturer_model_name=_text(model_name),
            software_versions=__version__,
            series_description="SonoDETR detections, not for diagnostic use",
            is_complete=True,
            is_final=False,
            is_verified=False,
            content_qualification="RESEARCH",
            coding_schemes=[CodingSchemeIdentificationItem(_SCHEME, name="SonoDETR")],
            specific_character_set="ISO_IR 192",
        )


def _notice() -> Any:
    """Rows 12 and 14 of TID 1500, which highdicom has no class for."""
    contains = sr.RelationshipTypeValues.CONTAINS
    title = sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
    container = sr.ContainerContentItem(title, relationship_type=contains)
    text = sr.TextContentItem(codes.DCM.Comment, NOTICE, relationship_type=contains)
    container.ContentSequence = sr.ContentSequence([text])
    return container


def _recording(source: Dataset, detections: Sequence[Detections], algorithm: Any) -> Any:
    """How much was looked at, and how much found: that nothing was found is a result too."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(generate_uid(prefix=None), "recording"),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(codes.DCM.NumberOfFrames, len(detections), codes.UCUM.NoUnits),
            sr.Measurement(
                _private("Number of detections"), sum(map(len, detections)), codes.UCUM.NoUnits
            ),
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
        ],
    )


def _object(
    source: Dataset, found: Detections, row: int, algorithm: Any, tracks: dict[int, str]
) -> list[Any]:
    """The measurement groups of one object in one frame."""
    name = found.class_names[found.classes[row]]
    track = -1 if found.track_ids is None else int(found.track_ids[row])
    number = found.frame_index + 1
    label = f"{name} {track}" if track >= 0 else f"{name}, frame {number}, {row + 1}"
    uid = generate_uid(prefix=None)
    if track >= 0:
        uid = tracks.setdefault(track, uid)
    image = sr.SourceImageForRegion(
        source.SOPClassUID,
        source.SOPInstanceUID,
        [number] if source.get("NumberOfFrames") else None,
    )
    shared: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid, label),
        "finding_type": _FINDINGS.get(name.lower()) or _private(name),
        "algorithm_id": algorithm,
    }
    x0, y0, x1, y1 = found.boxes_xyxy_px[row].astype(float)
    outline = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    score = round(float(found.scores[row]), 5)
    measured = [sr.Measurement(codes.DCM.CertaintyOfFinding, score, codes.UCUM.NoUnits)]
    if found.spacing_mm:
        measured.append(_length(codes.SCT.Width, (x1 - x0) * found.spacing_mm.x_mm))
        measured.append(_length(codes.DCM.Height, (y1 - y0) * found.spacing_mm.y_mm))
    box = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=sr.ImageRegion("POLYLINE", outline, image),
        geometric_purpose=codes.cid219.BoundedBy,
        measurements=measured,
        **shared,
    )
    shaft = _shaft(found, row, image)
    if not shaft:
        return [box]
    return [box, sr.MeasurementsAndQualitativeEvaluations(measurements=shaft, **shared)]


def _shaft(found: Detections, row: int, image: Any) -> list[Any]:
    """Angle and, where the spacing is known, length, both inferred from tip and entry."""
    if found.points_px is None or not np.isfinite(found.points_px[row]).all():
        return []
    points = found.points_px[row].astype(float)
    ends = [
        sr.CoordinatesForMeasurement("POINT", point[None], image, _private(name))
        for name, point in zip(("Tip", "Entry point"), points, strict=True)
    ]
    spacing = found.spacing_mm
    shaft = points * (spacing.x_mm, spacing.y_mm) if spacing else points
    angle_deg = float(line_angles_deg(np.array([[[0.0, 0.0], [1.0, 0.0]]]), shaft[None])[0])
    measured = []
    if np.isfinite(angle_deg):  # it is not where the two meet
        how = {"method": _private("Of the shaft with the image's horizontal")}
        angle = (codes.SCT.Angle, round(angle_deg, 2), codes.UCUM.Degree)
        measured.append(sr.Measurement(*angle, **how, referenced_coordinates=ends))
    if spacing:
        length_mm = float(np.linalg.norm(shaft[1] - shaft[0]))
        measured.append(_length(codes.SCT.Length, length_mm, referenced_coordinates=ends))
    return measured


def _length(name: Any, length_mm: float, **how: Any) -> Any:
    return sr.Measurement(name, round(float(length_mm), 3), codes.UCUM.Millimeter, **how)


def _algorithm(model_name: str, parameters: Sequence[str]) -> Any:
    return sr.AlgorithmIdentification(
        _text(f"SonoDETR {model_name}"),
        __version__,
        [_text(words) for words in parameters],
        family=codes.cid7162.ArtificialIntelligence,
    )


def _private(name: str) -> Any:
    return sr.CodedConcept(_text(name), _SCHEME, _text(name))


def _text(words: str) -> str:
    """As a DICOM text of at most 64 characters, in which a backslash would end a value."""
    line = "".join(letter if letter.isprintable() else " " for letter in words.replace("\\", " "))
    return line.strip()[:64] or "unnamed"


@contextmanager
def _silent() -> Iterator[None]:
    """highdicom logs names that it finds unusual."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with quietly():
            yield
    finally:
        logger.setLevel(level)
