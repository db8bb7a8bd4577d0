"""Stills and folders of pictures: values as stored, order, and one line for every fault."""

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sonodetr.files import InputError
from sonodetr.formats.images import image_frames, read_image_sequence, read_images
from sonodetr.formats.listing import natural_order

HEIGHT, WIDTH = 11, 17


def grey(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def colour(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".pgm", ".webp"])
def test_grey_written_by_opencv(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"scan{suffix}"
    cv2.imwrite(str(file), grey(1), [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else [])
    (video,) = read_images(file)
    assert (video.key, video.frames.size, len(video)) == (file.name, (HEIGHT, WIDTH), 1)
    shown = video.frames[0]
    if suffix == ".webp":  # which knows colour only
        shown = shown[..., 0]
    np.testing.assert_array_equal(shown, grey(1))


def test_colour_comes_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scan.png"), cv2.cvtColor(colour(2), cv2.COLOR_RGB2BGR))
    np.testing.assert_array_equal(read_images(tmp_path)[0].frames[0], colour(2))


def test_jpeg_equals_opencv(tmp_path: Path) -> None:
    file = tmp_path / "scan.jpg"
    cv2.imwrite(str(file), np.tile(np.arange(WIDTH * 8, dtype=np.uint8), (HEIGHT * 8, 1)))
    shown = image_frames(file)[0].astype(int)
    assert np.abs(shown - cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)).max() <= 1


def test_of_16_bits_the_high_8_are_kept(tmp_path: Path) -> None:
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 349
    cv2.imwrite(str(tmp_path / "grey.png"), deep)
    cv2.imwrite(str(tmp_path / "grey.tif"), deep)
    cv2.imwrite(str(tmp_path / "rgb.png"), np.stack([deep] * 3, -1))
    for name in ("grey.png", "grey.tif"):
        np.testing.assert_array_equal(image_frames(tmp_path / name)[0], deep >> 8)
    np.testing.assert_array_equal(image_frames(tmp_path / "rgb.png")[0][..., 1], deep >> 8)


def test_palette_transparency_and_one_bit(tmp_path: Path) -> None:
    indexed = Image.fromarray(grey(3) % 2, "P")
    indexed.putpalette([7, 13, 19, 23, 29, 31])
    indexed.save(tmp_path / "p.png")
    Image.fromarray(np.dstack([colour(4), grey(5)]), "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(grey(3) > 127).save(tmp_path / "bit.png")
    palette = np.array([[7, 13, 19], [23, 29, 31]])
    np.testing.assert_array_equal(image_frames(tmp_path / "p.png")[0], palette[grey(3) % 2])
    np.testing.assert_array_equal(image_frames(tmp_path / "rgba.png")[0], colour(4))
    np.testing.assert_array_equal(image_frames(tmp_path / "bit.png")[0], 255 * (grey(3) > 127))


def test_exif_rotation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey(6)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_frames(tmp_path / "turned.jpg")[0].shape == (HEIGHT, WIDTH)


def test_pages_of_a_tiff_are_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(grey(seed)) for seed in range(5)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    (video,) = read_images(tmp_path)
    for index in (3, 0, 4, -1):
        np.testing.assert_array_equal(video.frames[index], grey(index % 5))
    with pytest.raises(IndexError):
        video.frames[5]


def test_keys_are_relative_and_in_natural_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("f10.png", "f9.png", "b/f1.png"):
        cv2.imwrite(str(tmp_path / name), grey(7))
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert [video.key for video in read_images(tmp_path)] == ["b/f1.png", "f9.png", "f10.png"]


def test_natural_order_copes_with_any_name() -> None:
    names = ["7", "a", "", "a2", "a10", "10", "é²"]
    assert sorted(names, key=natural_order)[-1] in names
    assert sorted(["a10", "a2"], key=natural_order) == ["a2", "a10"]


def test_a_folder_as_one_recording(tmp_path: Path) -> None:
    for index in range(13):
        cv2.imwrite(str(tmp_path / f"{index}.png"), grey(index))
    video = read_image_sequence(tmp_path, frame_rate_hz=20.0)
    assert (len(video), video.frame_rate_hz, video.times_s[3]) == (13, 20, pytest.approx(0.15))
    again = pickle.loads(pickle.dumps(video.frames))
    for index in (12, 2, 10):
        np.testing.assert_array_equal(again[index], grey(index))
    assert read_image_sequence(tmp_path).frame_rate_hz is None
    cv2.imwrite(str(tmp_path / "20.png"), grey(0)[:-2])
    with pytest.raises(InputError, match=r"20\.png: 17 x 9 pixels"):
        read_image_sequence(tmp_path)


def test_real_stills(data_folder: Callable[[str], Path]) -> None:
    videos = read_images(data_folder("usgra-seg") / "dataset" / "images")
    assert len(videos) == 204
    for video in videos[::41]:
        file = data_folder("usgra-seg") / "dataset" / "images" / video.key
        reference = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        shown = video.frames[0]
        assert shown.shape[:2] == video.frames.size
        np.testing.assert_array_equal(
            shown if shown.ndim == 3 else np.dstack([shown] * 3), reference
        )


# Bad input


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [60_000, 10_000])
def test_a_giant_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "giant.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(InputError, match=r"giant\.png: the header claims") as caught:
        read_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_empty_truncated_and_wrong_files(tmp_path: Path) -> None:
    whole = cv2.imencode(".png", np.tile(grey(8), (20, 20)))[1].tobytes()
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "head.png").write_bytes(whole[:12])
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "zero.png": "0 bytes",
        "head.png": "is not an image",
        "text.png": "is not an image",
        "notes.txt": "allowed endings: .png",
        "empty": "holds no image",
        "absent.png": "no such file",
    }.items():
        with pytest.raises(InputError, match=said):
            read_images(tmp_path / name)
    frames = image_frames(tmp_path / "half.png")  # its header is whole
    with pytest.raises(InputError, match=r"half\.png: cannot be decoded"):
        frames[0]


def test_only_a_tiff_has_pages(tmp_path: Path) -> None:
    """An animated PNG says how many pictures it has, and may say two billion."""
    pictures = [Image.fromarray(grey(seed)) for seed in range(3)]
    pictures[0].save(tmp_path / "moves.png", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "moves.png") as moves:
        assert moves.n_frames == 3
    (video,) = read_images(tmp_path / "moves.png")
    assert len(video) == 1
    np.testing.assert_array_equal(video.frames[0], grey(0))


def test_damaged_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(grey(seed)) for seed in range(4)]
    file = tmp_path / "a.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    whole = file.read_bytes()
    for length in range(8, len(whole), 97):
        file.write_bytes(whole[:length])
        try:
            frames = image_frames(file)
            for index in range(len(frames)):
                frames[index]
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some lengths leave whole pages


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(grey(9).astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="pixels of type F"):
        image_frames(tmp_path / "f.tif")[0]
