"""What a frame costs in order and at random, and whether memory grows with the clip, by format.

    python benchmarks/frame_access.py             (about a minute on one core)

Files are made for it: a short clip and one of ten times its length, read in a process each. Real
clips are added where $SONODETR_DATA (or ../shared/data) has them. `group` is the longest way
between two key frames, `decoded` the most frames decoded for one random frame, `first` the first
frame of a clip (opening, inflating), `memory` what the process grew by while reading all frames.
Ends in one JSON line.
"""

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pydicom
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from sonodetr.formats import open_source

HEIGHT, WIDTH = 480, 640
DATA = Path(os.environ.get("SONODETR_DATA") or Path(__file__).parents[2] / "shared" / "data")
REAL = (
    "snappysonic-glove2/glove2.mp4",
    "pocus-neuruppin/Reg_pat1Image_132943.mpeg",
    "itkpocus/clarius-ocular-short.mp4",
    "plus/WaterTankBottomTranslationVideoBuffer.igs.mha",
)


def pictures(count: int) -> Iterator[np.ndarray]:
    """Grey speckle that drifts, so that frames are as hard to compress as ultrasound."""
    speckle = np.random.default_rng(0).rayleigh(30, (HEIGHT, 2 * WIDTH))
    speckle = cv2.GaussianBlur(speckle, None, 1.5).clip(0, 255).astype(np.uint8)
    for index in range(count):
        yield np.ascontiguousarray(speckle[:, index % WIDTH : index % WIDTH + WIDTH])


def make_video(file: Path, count: int, encoder: str, options: dict[str, str]) -> None:
    with av.open(str(file), "w") as output:
        stream = output.add_stream(encoder, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index, picture in enumerate(pictures(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def make_dicom(file: Path, count: int, syntax: uid.UID) -> None:
    header = pydicom.Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    header.SOPInstanceUID = uid.generate_uid()
    header.Rows, header.Columns, header.NumberOfFrames = HEIGHT, WIDTH, count
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    if syntax == uid.JPEGBaseline8Bit:
        encoded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures(count)]
        header.PixelData = encapsulate(encoded)
        header["PixelData"].is_undefined_length = True
    else:
        header.PixelData = b"".join(picture.tobytes() for picture in pictures(count))
    header["PixelData"].VR = "OB"
    header.save_as(file, enforce_file_format=True)


def make_metaimage(file: Path, count: int) -> None:
    data = zlib.compress(b"".join(picture.tobytes() for picture in pictures(count)), 1)
    header = f"""ObjectType = Image
NDims = 3
CompressedData = True
DimSize = {WIDTH} {HEIGHT} {count}
ElementType = MET_UCHAR
ElementDataFile = LOCAL
"""
    file.write_bytes(header.encode() + data)


def make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for index, picture in enumerate(pictures(count)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)


MAKERS: dict[str, Callable[[Path, int], None]] = {
    "h264.mp4": partial(make_video, encoder="libx264", options={"g": "12", "preset": "veryfast"}),
    "long-group.mp4": partial(
        make_video, encoder="libx264", options={"g": "250", "preset": "veryfast"}
    ),
    "mpeg2.mpeg": partial(make_video, encoder="mpeg2video", options={"g": "12", "b": "4M"}),
    "plain.dcm": partial(make_dicom, syntax=uid.ExplicitVRLittleEndian),
    "jpeg.dcm": partial(make_dicom, syntax=uid.JPEGBaseline8Bit),
    "zlib.mha": make_metaimage,
    "png": make_images,
}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(path: Path, samples: int) -> dict[str, Any]:
    """Costs of one clip; in a process of its own, so that memory is that of the clip alone."""
    count_decoded = _count_decoded()
    video = open_source(path)
    start = time.perf_counter()
    video.frames[0]
    first_ms = (time.perf_counter() - start) * 1e3
    before, peak = resident_mb(), 0.0
    start = time.process_time()
    for index in range(len(video)):
        video.frames[index]
        peak = max(peak, resident_mb())
    in_order_ms = (time.process_time() - start) / len(video) * 1e3
    order = random.Random(0).sample(range(len(video)), min(samples, len(video)))
    decoded = []
    start = time.process_time()
    for index in order:
        count_decoded.clear()
        video.frames[index]
        decoded.append(len(count_decoded))
    at_random_ms = (time.process_time() - start) / len(order) * 1e3
    keys = getattr(getattr(video.frames, "index", None), "keys", None)
    group = None if keys is None else int(np.diff([*keys, len(video)]).max())
    return {
        "frames": len(video),
        "group": group,
        "first_ms": round(first_ms, 2),
        "in_order_ms": round(in_order_ms, 2),
        "at_random_ms": round(at_random_ms, 2),
        "decoded": max(decoded) if group else None,
        "memory_mb": round(peak - before, 1),
    }


def _count_decoded() -> list[int]:
    """A list that grows by one with every frame that the video reader decodes."""
    from sonodetr.formats import video as module

    decoded: list[int] = []
    original = module._frames

    def counted(packets: Iterator[Any]) -> Iterator[Any]:
        for frame in original(packets):
            decoded.append(1)
            yield frame

    module._frames = counted
    return decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=30, help="length of the short clip")
    parser.add_argument("--samples", type=int, default=40, help="random frames a clip")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {}
        for name, make in MAKERS.items():
            for count in (options.frames, 10 * options.frames):
                paths[f"{name} x{count}"] = path = Path(folder) / f"{count}-{name}"
                make(path, count)
        paths |= {Path(name).name: DATA / name for name in REAL if (DATA / name).is_file()}
        if cine := get_testdata_file("examples_ybr_color.dcm", download=False):
            paths["pydicom echo cine (JPEG)"] = Path(str(cine))
        print(
            f"{'clip':50} {'frames':>6} {'group':>5} {'first':>8} {'in order':>8} {'random':>8}",
            end="",
        )
        print(f" {'times':>6} {'decoded':>7} {'memory':>8}")
        for name, path in paths.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = results[name] = pool.apply(measure, (path, options.samples))
            times = row["at_random_ms"] / max(row["in_order_ms"], 0.01)
            print(
                f"{name:50} {row['frames']:6} {row['group'] or '-':>5} {row['first_ms']:5.1f} ms "
                f"{row['in_order_ms']:5.2f} ms {row['at_random_ms']:5.1f} ms {times:6.1f} "
                f"{row['decoded'] or '-':>7} {row['memory_mb']:5.1f} MB",
                flush=True,
            )
    print(json.dumps({"height": HEIGHT, "width": WIDTH, "clips": results}))


if __name__ == "__main__":
    main()
