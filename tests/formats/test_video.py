"""Video files: any frame equals the one that plain decoding gives, in every container."""

import math
import multiprocessing
import os
import pickle
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats import video as module
from sonodetr.formats.video import VideoFrames, read_video, video_frames

HEIGHT, WIDTH, COUNT = 46, 82, 53
RATE_HZ = 25

X264 = {"bf": "3", "g": "12"}
OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:bframes=3"}
MPEG = {"bf": "2", "g": "12"}

# name: encoder, pixel format, options, container where the name does not tell
KINDS: dict[str, tuple[str, str, dict[str, str], str | None]] = {
    "h264.mp4": ("libx264", "yuv420p", X264, None),
    "h264.mov": ("libx264", "yuv420p", X264, None),
    "h264.mkv": ("libx264", "yuv420p", X264, None),
    "h264.ts": ("libx264", "yuv420p", X264, None),
    "h264.avi": ("libx264", "yuv420p", X264, None),  # whose time stamps are wrong
    "open.mp4": ("libx264", "yuv420p", OPEN_GROUPS, None),
    "grey.mp4": ("libx264", "gray", X264, None),
    "mpeg4.mp4": ("mpeg4", "yuv420p", MPEG, None),
    "mpeg4.avi": ("mpeg4", "yuv420p", MPEG, None),
    "program.mpeg": ("mpeg1video", "yuv420p", MPEG, "mpeg"),
    "program.mpg": ("mpeg2video", "yuv420p", MPEG, "mpeg"),
    "elementary.mpeg": ("mpeg1video", "yuv420p", MPEG, "mpeg1video"),
    "elementary.m2v": ("mpeg2video", "yuv420p", MPEG, "mpeg2video"),
    "ffv1.mkv": ("ffv1", "gray", {}, None),
    "ffv1.avi": ("ffv1", "bgr0", {}, None),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, None),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "12", "auto-alt-ref": "1"}, None),
    "wmv2.wmv": ("wmv2", "yuv420p", {"g": "12"}, None),
}


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB; every frame differs from every other in every pixel."""
    y, x = np.mgrid[:height, :width]
    red = (x * 3 + index * 5) % 256
    return np.stack([red, (y * 5 + index * 4) % 256, (index * 4 + 0 * x) % 256], -1).astype(
        np.uint8
    )


def encode(
    file: Path,
    kind: str,
    count: int = COUNT,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    times: Callable[[int], int] = lambda index: index,
) -> Path:
    encoder, layout, options, container = KINDS[kind]
    with av.open(str(file), "w", format=container) as output:
        stream = output.add_stream(encoder, rate=RATE_HZ, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = layout
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size)).reformat(format=layout)
            frame.pts, frame.time_base = times(index), Fraction(1, RATE_HZ)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file


def plain_decode(file: Path) -> list[np.ndarray]:
    with av.open(str(file)) as container:
        grey = container.streams.video[0].codec_context.pix_fmt.startswith("gray")
        return [
            frame.to_ndarray(format="gray" if grey else "rgb24")
            for frame in container.decode(video=0)
        ]


def shuffled(count: int, seed: int = 3) -> list[int]:
    return random.Random(seed).sample(range(count), count)


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_gives_what_plain_decoding_gives(tmp_path: Path, kind: str) -> None:
    file = encode(tmp_path / kind, kind)
    reference = plain_decode(file)
    (video,) = read_video(file)
    assert (video.key, len(video), video.frames.size) == (kind, COUNT, (HEIGHT, WIDTH))
    assert len(reference) == COUNT
    for order in (range(COUNT), reversed(range(COUNT)), shuffled(COUNT)):
        for index in order:
            np.testing.assert_array_equal(video.frames[index], reference[index], str(index))
    assert video.times_s[0] == 0
    assert (np.diff(video.times_s) > 0).all()
    assert video.frame_rate_hz == pytest.approx(RATE_HZ, rel=0.03)


def test_lossless_pixels_are_those_encoded(tmp_path: Path) -> None:
    (colour,) = read_video(encode(tmp_path / "ffv1.avi", "ffv1.avi"))
    np.testing.assert_array_equal(colour.frames[31], picture(31))
    (grey,) = read_video(encode(tmp_path / "ffv1.mkv", "ffv1.mkv"))
    assert grey.frames[31].shape == (HEIGHT, WIDTH)
    weighted = picture(31) @ [0.299, 0.587, 0.114]
    assert np.abs(grey.frames[31] - weighted).max() <= 1


@pytest.mark.parametrize("kind", ["h264.mkv", "h264.mp4"])
def test_variable_frame_rate(tmp_path: Path, kind: str) -> None:
    file = encode(tmp_path / kind, kind, times=lambda index: index + index * index // 7)
    (video,) = read_video(file)
    expected = [(index + index * index // 7) / RATE_HZ for index in range(COUNT)]
    np.testing.assert_allclose(video.times_s, expected, atol=1e-3)
    np.testing.assert_array_equal(video.frames[40], plain_decode(file)[40])


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "h264.ts", "program.mpeg"])
def test_a_frame_costs_at_most_one_group(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, _ = video_frames(encode(tmp_path / kind, kind))
    decoded = 0

    def counted(packets: Iterator[Any]) -> Iterator[Any]:
        nonlocal decoded
        for frame in _frames(packets):
            decoded += 1
            yield frame

    _frames = module._frames
    monkeypatch.setattr(module, "_frames", counted)
    group = int(np.diff([*frames.index.keys, COUNT]).max())
    assert group <= 12
    costs = []
    for index in shuffled(COUNT):
        decoded = 0
        frames[index]
        costs.append(decoded)
    assert max(costs) <= group + 3  # and the B-frames shown before a key frame
    decoded = 0
    for index in range(COUNT):
        frames[index]
    assert decoded <= COUNT + 3  # in order nothing is decoded twice


def test_overlapping_clips_do_not_decode_again(tmp_path: Path) -> None:
    frames, _ = video_frames(encode(tmp_path / "h264.mp4", "h264.mp4"))
    reference = plain_decode(tmp_path / "h264.mp4")
    for last in range(8, COUNT):
        for index in range(last - 7, last + 1):
            np.testing.assert_array_equal(frames[index], reference[index])
        assert len(frames._decoder.recent) <= 8


def test_pixels_are_not_shared(tmp_path: Path) -> None:
    frames, _ = video_frames(encode(tmp_path / "h264.mp4", "h264.mp4"))
    before = frames[5].copy()
    frames[5][:] = 0
    np.testing.assert_array_equal(frames[5], before)


def sums(frames: VideoFrames, order: list[int]) -> list[int]:
    return [int(frames[index].astype(int).sum()) for index in order]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_data_workers(tmp_path: Path, method: str) -> None:
    frames, _ = video_frames(encode(tmp_path / "h264.mp4", "h264.mp4"))
    order = shuffled(COUNT)
    expected = sums(frames, order)  # the parent has the file open, somewhere in the middle
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = [pool.apply_async(sums, (frames, order)) for _ in range(2)]
        assert sums(frames, order) == expected
        assert [result.get(60) for result in results] == [expected, expected]


def test_pickles_without_its_decoder(tmp_path: Path) -> None:
    frames, _ = video_frames(encode(tmp_path / "h264.mp4", "h264.mp4"))
    expected = frames[30]
    packed = pickle.dumps(frames)
    assert len(packed) < 4000
    np.testing.assert_array_equal(pickle.loads(packed)[30], expected)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    size = (240, 320)
    grown = []
    for count in (30, 300):
        file = encode(tmp_path / "long.mp4", "mpeg4.mp4", count, size)
        frames, _ = video_frames(file)
        frames[0]
        before = resident_bytes()
        for index in range(count):
            frames[index]
        grown.append(resident_bytes() - before)
    assert grown[1] - grown[0] < 20e6  # 300 decoded frames are 69 MB


# Real files


@pytest.mark.parametrize(
    ("folder", "name", "count", "size"),
    [
        ("pocus-neuruppin", "Reg_Image_181432_crop.mp4", 137, (242, 242)),
        ("pocus-neuruppin", "Reg_Image_181739_trimmed_crop.mp4", 104, (386, 386)),
        ("pocus-neuruppin", "Reg_pat1Image_132943.mpeg", 280, (370, 370)),
        ("pocus-neuruppin", "Reg_pat2Image_133824.mpeg", 273, (370, 370)),
        ("pocus-neuruppin", "Reg_pat3Image_134711.mpeg", 217, (370, 370)),
        ("itkpocus", "clarius-ocular-short.mp4", 50, (960, 1280)),
        ("snappysonic-glove2", "glove2.mp4", 342, (480, 640)),
    ],
)
def test_real_clips(
    data_folder: Callable[[str], Path], folder: str, name: str, count: int, size: tuple[int, int]
) -> None:
    (video,) = read_video(data_folder(folder) / name)
    assert (len(video), video.frames.size) == (count, size)
    wanted = set(shuffled(count)[:17])
    with av.open(str(data_folder(folder) / name)) as container:
        reference = {
            index: frame.to_ndarray(format="rgb24")
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        }
    for index in shuffled(count)[:17]:
        np.testing.assert_array_equal(video.frames[index], reference[index])


# Bad input


@pytest.mark.parametrize("kind", ["h264.ts", "h264.mkv", "program.mpeg", "h264.avi", "ffv1.mkv"])
@pytest.mark.parametrize("share", [0.6, 0.85])
def test_a_cut_video_keeps_the_frames_that_are_left(
    tmp_path: Path, kind: str, share: float
) -> None:
    whole = plain_decode(encode(tmp_path / kind, kind))
    data = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(data[: math.ceil(len(data) * share)])
    (video,) = read_video(tmp_path / kind)
    assert 1 < len(video) < (COUNT if share == 0.6 else COUNT + 1)
    for index in shuffled(len(video)):
        shown = video.frames[index]
        if index < len(video) - 8:  # the last pictures may be damaged where the cut is
            np.testing.assert_array_equal(shown, whole[index])


def test_a_cut_mp4_has_lost_its_index(tmp_path: Path) -> None:
    data = encode(tmp_path / "h264.mp4", "h264.mp4").read_bytes()
    (tmp_path / "h264.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"h264\.mp4: is not a video .* cut short"):
        read_video(tmp_path)


def test_a_lost_frame_is_named(tmp_path: Path) -> None:
    file = encode(tmp_path / "mjpeg.avi", "mjpeg.avi")
    data = bytearray(file.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == COUNT
    data[starts[20] : starts[21] - 8] = bytes(starts[21] - 8 - starts[20])
    file.write_bytes(data)
    (video,) = read_video(file)
    reference = plain_decode_with_gaps(file)
    np.testing.assert_array_equal(video.frames[19], reference[19])
    with pytest.raises(InputError, match=r"mjpeg\.avi: frame 20 of 53 cannot be decoded"):
        video.frames[20]
    np.testing.assert_array_equal(video.frames[21], reference[21])


def plain_decode_with_gaps(file: Path) -> dict[int, np.ndarray]:
    found = {}
    with av.open(str(file)) as container:
        for packet in container.demux(video=0):
            try:
                for frame in packet.decode():
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
            except av.InvalidDataError:
                continue
    return found


def test_a_frame_that_the_writer_dropped(tmp_path: Path) -> None:
    file = encode(tmp_path / "mjpeg.avi", "mjpeg.avi")
    reference = plain_decode(file)
    data = bytearray(file.read_bytes())
    index = data.index(b"idx1") + 8 + 16 * 20  # flags, offset and size of frame 20
    offset = int.from_bytes(data[index + 8 : index + 12], "little")
    chunk = data.index(b"movi") + offset
    assert data[chunk : chunk + 4] == b"00dc"
    size = int.from_bytes(data[chunk + 4 : chunk + 8], "little")
    data[index + 12 : index + 16] = bytes(4)
    data[chunk + 4 : chunk + 8] = bytes(4)
    data[chunk + 8 : chunk + 12] = b"JUNK"
    data[chunk + 12 : chunk + 16] = (size + size % 2 - 8).to_bytes(4, "little")
    file.write_bytes(data)
    (video,) = read_video(file)
    kept = [picture for index, picture in enumerate(reference) if index != 20]
    assert len(video) == COUNT - 1
    for index in shuffled(COUNT - 1):
        np.testing.assert_array_equal(video.frames[index], kept[index])
    assert video.times_s[20] == pytest.approx(21 / RATE_HZ)


def test_sound_without_pictures(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(InputError, match="has no video stream"):
        read_video(tmp_path / "sound.mp4")


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mkv").write_text(
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "clip.png").write_bytes(b"png")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "zero.mp4": "0 bytes",
        "text.mp4": "is not a video",
        "list.mkv": "is not a video",
        "clip.png": "allowed endings: .mp4",
        "empty": "holds no video",
        "absent.mp4": "no such file",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            read_video(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        read_video(tmp_path)


def test_beyond_the_end(tmp_path: Path) -> None:
    frames, _ = video_frames(encode(tmp_path / "h264.mp4", "h264.mp4"))
    np.testing.assert_array_equal(frames[-1], frames[COUNT - 1])
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"of {COUNT}|of a recording of {COUNT}"):
            frames[index]
