"""The target cache: values, refusals, and processes that race, wait and are killed."""

import dataclasses
import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import namedtuple

import cv2
import numpy as np
import pytest
import torch

from sonodetr.distill import array_file, cache
from sonodetr.distill.cache import CacheKey, TargetCache, data_fingerprint, size_bytes
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.types import Region, Video

KEY = CacheKey(data="d", augmentation="a", teacher="t", reduction="r")
SAMPLES, VIEWS = 7, 3
SHAPES = {"encoder": (2, 5, 5), "queries": (11,), "confidence": ()}
# Children begin as copies: starting Python and torch anew would take seconds each.
PROCESSES = multiprocessing.get_context("fork")


def open_cache(folder, key=KEY, samples=SAMPLES, views=VIEWS, shapes=SHAPES):
    return TargetCache.open(folder, key, samples, views, shapes)


def entries(view: int, samples: list[int]) -> list[tuple[int, int]]:
    return [(view, sample) for sample in samples]


def targets_of(view, samples):
    """What the teacher says: a function of view and sample, and exact in half precision."""
    value = torch.tensor([view * SAMPLES + sample for sample in samples], dtype=torch.float32)
    return {
        name: (value + 1).view(-1, *[1] * len(shape)) / 32 * (torch.ones(shape).cumsum(-1) + 1)
        if shape
        else (value + 1) / 32
        for name, shape in SHAPES.items()
    }


def fill(folder, delay_s=0.0):
    """Everything that is missing, one entry at a time."""
    opened = open_cache(folder)
    with opened.filling():
        for view, sample in opened.missing():
            opened.write(entries(view, [sample]), targets_of(view, [sample]))
            time.sleep(delay_s)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def start(function, *arguments):
    process = PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_reads_what_was_written(tmp_path):
    opened = open_cache(tmp_path / "runs" / "cache")
    assert opened.missing() == [(view, sample) for view in range(3) for sample in range(7)]
    with opened.filling():
        opened.write(entries(2, [5, 0]), targets_of(2, [5, 0]))
        assert opened.read(entries(2, [5]))["confidence"].tolist() == [20 / 32]
    again = open_cache(tmp_path / "runs" / "cache")
    read = again.read(entries(2, [0, 5, 5]))
    for name, expected in targets_of(2, [0, 5, 5]).items():
        assert read[name].dtype == torch.float32
        assert torch.equal(read[name], expected)
    assert read["encoder"].shape == (3, 2, 5, 5)
    assert read["confidence"].tolist() == [15 / 32, 20 / 32, 20 / 32]
    assert (2, 5) not in again.missing()
    assert len(again.missing()) == 19


def test_files_are_plain_and_of_the_size_foretold(tmp_path):
    fill(tmp_path)
    arrays = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    assert arrays["encoder"].shape == (3, 7, 2, 5, 5)
    assert arrays["encoder"].dtype == np.float16
    assert arrays["confidence"][1, 4] == 12 / 32
    assert arrays["done"].dtype == np.uint8
    assert arrays["done"].all()
    # 21 entries of 50 + 11 + 1 values and a mark, 4 headers.
    size = 21 * (62 * 2 + 1) + 4 * 128
    assert size_bytes(7, 3, SHAPES) == size
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) == size


def test_half_precision_costs_little(tmp_path):
    torch.manual_seed(2)
    teacher = (3 * torch.randn(1, 2, 97, 101)).softmax(-1)
    opened = open_cache(tmp_path, samples=1, views=1, shapes={"encoder": (2, 97, 101)})
    with opened.filling():
        opened.write(entries(0, [0]), {"encoder": teacher})
    stored = opened.read(entries(0, [0]))["encoder"]
    error = (stored - teacher).abs()
    normal = teacher >= 2**-14
    assert (error[normal] / teacher[normal]).max() <= 2**-11
    assert error[~normal].max() <= 2**-25
    assert (stored.sum(-1) - 1).abs().max() < 2**-11
    divergence = (stored * (stored.clamp_min(1e-30) / teacher).log()).sum(-1)
    assert divergence.abs().max() < 5e-4  # a row's sum may be off by that much
    assert divergence.mean().abs() < 1e-5


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("data", "from other data, or another division of it"),
        ("augmentation", "with another augmentation"),
        ("teacher", "by another teacher"),
        ("reduction", "for other maps, layers, heads or grids"),
    ],
)
def test_refuses_another_key_and_names_what_differs(tmp_path, part, named):
    fill(tmp_path)
    before = contents(tmp_path)
    other = KEY.model_copy(update={part: "x"})
    with pytest.raises(InputError) as caught:
        open_cache(tmp_path, other)
    assert (
        str(caught.value) == f"{tmp_path}: was made {named}; delete the folder, or choose another"
    )
    assert contents(tmp_path) == before


def test_names_all_that_differs(tmp_path):
    open_cache(tmp_path)
    other = KEY.model_copy(update={"data": "x"})
    with pytest.raises(
        InputError,
        match=r"from other data, or another division of it and for 7 samples, not 13; delete",
    ):
        open_cache(tmp_path, other, samples=13)
    with pytest.raises(InputError, match=r"made for 3 views, not 5; delete"):
        open_cache(tmp_path, views=5)
    with pytest.raises(InputError, match=r"made for targets of other names or shapes; delete"):
        open_cache(tmp_path, shapes=SHAPES | {"queries": (13,)})


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def truncate(folder):
    os.truncate(folder / "encoder.npy", 300)


def cut_header(folder):
    os.truncate(folder / "done.npy", 17)


def delete(folder):
    (folder / "queries.npy").unlink()


def break_facts(folder):
    (folder / "cache.json").write_text("{'format': 1")


def empty_facts(folder):
    (folder / "cache.json").write_text("")


def other_facts(folder):
    text = (folder / "cache.json").read_text()
    (folder / "cache.json").write_text(text.replace('"format": 1', '"format": 2'))


def other_shape(folder):
    np.save(folder / "queries.npy", np.zeros((3, 7, 13), np.float16))


def other_type(folder):
    np.save(folder / "queries.npy", np.zeros((3, 7, 11), np.float32))


def other_order(folder):
    np.save(folder / "encoder.npy", np.asfortranarray(np.zeros((3, 7, 2, 5, 5), np.float16)))


def objects(folder):
    payload = np.empty((3, 7, 11), object)
    payload[:] = Payload(str(folder / "unpickled"))
    np.save(folder / "queries.npy", payload, allow_pickle=True)


def bare_pickle(folder):
    (folder / "queries.npy").write_bytes(pickle.dumps(Payload(str(folder / "unpickled"))))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "encoder.npy: is no whole .npy file"),
        (cut_header, "done.npy: is no whole .npy file"),
        (delete, "queries.npy: is missing"),
        (break_facts, "cache.json: is damaged, or of another version of sonodetr"),
        (empty_facts, "cache.json: is damaged, or of another version of sonodetr"),
        (other_facts, "cache.json: is damaged, or of another version of sonodetr"),
        (other_shape, "queries.npy: holds float16 (3, 7, 13), not float16 (3, 7, 11)"),
        (other_type, "queries.npy: holds float32 (3, 7, 11), not float16 (3, 7, 11)"),
        (other_order, "encoder.npy: does not hold its entries one after the other"),
        (objects, "queries.npy: is no whole .npy file"),
        (bare_pickle, "queries.npy: is no whole .npy file"),
    ],
)
def test_damage_is_said_in_one_line(tmp_path, damage, said):
    open_cache(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError) as caught:
        open_cache(tmp_path)
    hint = f"delete the folder {tmp_path} to make the cache anew"
    assert str(caught.value) == f"{tmp_path}/{said}; {hint}"
    assert not (tmp_path / "unpickled").exists()


def test_refuses_a_folder_of_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files, not a target cache; choose another"):
        open_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match=r"^cannot write .*notes.txt: Not a directory; free some"):
        open_cache(tmp_path / "notes.txt")


def test_says_how_much_space_is_missing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(1_234_567)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"the cache takes 21 GB, but 1.23 MB are free; lower"):
        open_cache(tmp_path / "cache", samples=7000, views=3000, shapes={"encoder": (499,)})
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("cache.json"))


def test_takes_the_space_at_once(tmp_path):
    opened = open_cache(tmp_path, shapes={"encoder": (100, 101)})
    blocks = (tmp_path / "encoder.npy").stat().st_blocks
    assert blocks * 512 >= SAMPLES * VIEWS * 100 * 101 * 2
    assert len(opened.missing()) == 21


@pytest.mark.parametrize("how", ["cannot", "has no such call"])
def test_takes_the_space_without_fallocate(tmp_path, monkeypatch, how):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(array_file, "_CHUNK_BYTES", 1009)
    if how == "cannot":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    else:
        monkeypatch.delattr(os, "posix_fallocate")
    fill(tmp_path)
    assert torch.equal(
        open_cache(tmp_path).read(entries(1, [3]))["queries"], targets_of(1, [3])["queries"]
    )
    assert (tmp_path / "encoder.npy").stat().st_size == 128 + 21 * 50 * 2


def test_a_disk_too_full_to_take_the_space_leaves_no_half(tmp_path, monkeypatch):
    def full(file, offset, size):
        if size == 21 * 11 * 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(InputError, match=r"^cannot write .*: No space left on device; free"):
            open_cache(tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    fill(tmp_path)
    assert open_cache(tmp_path).missing() == []


def test_a_disk_that_fills_up_keeps_what_was_whole(tmp_path, monkeypatch):
    opened = open_cache(tmp_path)

    def full(file, entry, values):
        if entry == 4 and file.name.endswith("queries.npy"):
            raise OSError(errno.ENOSPC, "No space left on device")
        array_file.write_entry(file, entry, values)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_entry", full)
        with (
            pytest.raises(InputError, match=r"^cannot write .*: No space left on device; free"),
            opened.filling(),
        ):
            opened.write(entries(0, [1, 2, 4, 5]), targets_of(0, [1, 2, 4, 5]))
    assert opened.missing()[:5] == [(0, 0), (0, 3), (0, 4), (0, 5), (0, 6)]
    fill(tmp_path)
    assert torch.equal(opened.read(entries(0, [4]))["queries"], targets_of(0, [4])["queries"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 65520.0, -1e9])
def test_refuses_what_half_precision_cannot_hold(tmp_path, value):
    opened = open_cache(tmp_path)
    targets = targets_of(0, [2, 3])
    targets["queries"][1, 6] = value
    with opened.filling(), pytest.raises(InputError, match=r"target 'queries' is NaN or beyond"):
        opened.write(entries(0, [2, 3]), targets)
    assert len(opened.missing()) == 21
    assert not np.load(tmp_path / "encoder.npy").any()


def test_mistakes_of_the_caller(tmp_path):
    opened = open_cache(tmp_path)
    with pytest.raises(RuntimeError, match="filling"):
        opened.write(entries(0, [0]), targets_of(0, [0]))
    with pytest.raises(LookupError, match=r"entries \[\(1, 6\)\] .* have not been written"):
        opened.read(entries(1, [6]))
    for view, sample in ((0, 7), (0, -1), (3, 0), (-1, 0)):
        with pytest.raises(IndexError, match="outside 3 x 7"):
            opened.read(entries(view, [sample]))
    with opened.filling():
        with pytest.raises(ValueError, match="but the cache holds"):
            opened.write(entries(0, [0]), {"encoder": torch.zeros(1, 2, 5, 5)})
        with pytest.raises(ValueError, match="but the cache holds"):
            opened.write(entries(0, [0]), targets_of(0, [0, 1]))
        with pytest.raises(IndexError):
            opened.write(entries(0, [-1]), targets_of(0, [0]))
    with pytest.raises(RuntimeError, match="filling"):
        opened.write(entries(0, [0]), targets_of(0, [0]))
    for shapes in ({"done": ()}, {"../x": ()}, {"a": (0,)}):
        with pytest.raises(ValueError, match=r"done|pattern|greater than 0"):
            open_cache(tmp_path / "new", shapes=shapes)
    assert not (tmp_path / "new").exists()


def test_entries_that_are_there_stay(tmp_path):
    opened = open_cache(tmp_path)
    with opened.filling():
        opened.write(entries(0, [1]), targets_of(0, [1]))
        opened.write(entries(0, [1, 2]), targets_of(2, [1, 2]))
    assert torch.equal(opened.read(entries(0, [1]))["encoder"], targets_of(0, [1])["encoder"])
    assert torch.equal(opened.read(entries(0, [2]))["encoder"], targets_of(2, [2])["encoder"])


def test_data_is_safe_before_it_counts_as_done(tmp_path, monkeypatch):
    opened, order = open_cache(tmp_path), []
    sync = os.fsync
    write = cache.write_entry
    names = {}

    def watched_sync(number):
        order.append(f"sync {names[number]}")
        sync(number)

    def watched_write(file, entry, values):
        names[file.fileno()] = os.path.basename(file.name).removesuffix(".npy")
        order.append(f"write {names[file.fileno()]}")
        write(file, entry, values)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(cache, "write_entry", watched_write)
    monkeypatch.setattr(cache, "_WRITES_A_FLUSH", 2)
    reader = open_cache(tmp_path)
    with opened.filling():
        opened.write(entries(0, [0]), targets_of(0, [0]))
        assert order == ["write encoder", "write queries", "write confidence"]
        assert len(reader.missing()) == 21
        order.clear()
        opened.write(entries(0, [1]), targets_of(0, [1]))
        assert order == [
            *("write encoder", "write queries", "write confidence"),
            *("sync encoder", "sync queries", "sync confidence"),
            *("write done", "sync done"),
        ]
        assert torch.equal(reader.read(entries(0, [1]))["encoder"], targets_of(0, [1])["encoder"])


def test_pickles_as_a_path(tmp_path):
    fill(tmp_path)
    text = pickle.dumps(open_cache(tmp_path))
    assert len(text) < 2000
    assert torch.equal(
        pickle.loads(text).read(entries(1, [6]))["queries"], targets_of(1, [6])["queries"]
    )


def create_together(folder, barrier, queue):
    barrier.wait()
    try:
        queue.put(len(open_cache(folder).missing()))
    except InputError as error:
        queue.put(str(error))


@pytest.mark.parametrize("turn", range(5))
def test_processes_that_create_the_same_folder(tmp_path, turn):
    barrier, queue = PROCESSES.Barrier(4), PROCESSES.Queue()
    started = [start(create_together, tmp_path / "c", barrier, queue) for _ in range(4)]
    assert [queue.get(timeout=20) for _ in started] == [21] * 4
    for process in started:
        process.join()
    fill(tmp_path / "c")
    assert open_cache(tmp_path / "c").missing() == []


def create_and_hang(folder):
    real = cache.allocate

    def allocate(path, dtype, shape):
        real(path, dtype, shape)
        if path.name == "queries.npy":
            time.sleep(60)

    cache.allocate = allocate
    open_cache(folder)


def test_a_creator_that_was_killed(tmp_path):
    creator = start(create_and_hang, tmp_path / "c")
    wait_for((tmp_path / "c" / "queries.npy").exists)
    waiting = start(fill, tmp_path / "c")
    time.sleep(0.1)
    assert not (tmp_path / "c" / "cache.json").exists()
    kill(creator)
    waiting.join(20)
    assert waiting.exitcode == 0
    assert open_cache(tmp_path / "c").missing() == []


def test_what_a_killed_creator_left_takes_no_space(tmp_path):
    (tmp_path / "creating.lock").touch()
    (tmp_path / "old.npy").write_bytes(bytes(1009))
    fill(tmp_path)
    assert not (tmp_path / "old.npy").exists()


def fill_forever(folder, begun):
    with open_cache(folder).filling():
        begun.set()
        time.sleep(60)


def test_one_process_fills_at_a_time(tmp_path):
    opened = open_cache(tmp_path)
    begun, second = PROCESSES.Event(), PROCESSES.Event()
    filler = start(fill_forever, tmp_path, begun)
    assert begun.wait(20)
    waiting = start(fill_forever, tmp_path, second)
    assert not second.wait(1)
    assert len(open_cache(tmp_path).missing()) == 21  # reading needs no lock
    kill(filler)
    assert second.wait(20)
    kill(waiting)
    with opened.filling():
        opened.write(entries(0, [0]), targets_of(0, [0]))
    assert (0, 0) not in opened.missing()


def fill_in_small_steps(folder):
    cache._WRITES_A_FLUSH = 2
    fill(folder, 0.004)


def test_killed_in_the_middle_and_continued(tmp_path):
    fill(tmp_path / "whole")
    opened = open_cache(tmp_path / "cut")
    left = [21]
    while left[-1] > 3:
        filler = start(fill_in_small_steps, tmp_path / "cut")
        wait_for(lambda: len(opened.missing()) < left[-1])
        kill(filler)
        left.append(len(opened.missing()))
        for view, sample in {(v, s) for v in range(3) for s in range(7)} - set(opened.missing()):
            read = opened.read(entries(view, [sample]))
            assert all(torch.equal(read[k], t) for k, t in targets_of(view, [sample]).items())
    assert left[-1] < left[1] < 21
    fill(tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


class Pictures:
    """41 random grey frames that count how often they are read."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.pixels, self.reads = random.integers(0, 256, (41, 13, 17), np.uint8), 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        self.reads += 1
        return self.pixels[index]

    @property
    def size(self):
        return self.pixels.shape[1:]


def recordings():
    return [Video(f"v{n}", Pictures(n), np.arange(41) / 29) for n in range(2)]


def test_fingerprint_of_the_data():
    videos = recordings()
    samples = [(video, frame) for video in range(2) for frame in range(41)]
    whole = data_fingerprint(videos, samples)
    assert len(whole) == 64
    assert sum(video.frames.reads for video in videos) == 16
    assert data_fingerprint(recordings(), samples) == whole

    renamed = [dataclasses.replace(videos[0], key="other"), videos[1]]
    cropped = [dataclasses.replace(videos[0], region_px=Region(0, 0, 13, 11)), videos[1]]
    changed = recordings()
    changed[0].frames.pixels[0, 7, 5] ^= 1
    prints = {
        whole,
        data_fingerprint(renamed, samples),
        data_fingerprint(cropped, samples),
        data_fingerprint(changed, samples),
        data_fingerprint(videos, samples[:-1]),
        data_fingerprint(videos, samples[::-1]),
        data_fingerprint(videos[::-1], samples),
        data_fingerprint(videos, samples[:1]),
    }
    assert len(prints) == 8


def test_fingerprint_of_data_in_files(tmp_path):
    """Every byte of every picture counts, not that of a few alone."""
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((8, 9), number, np.uint8))
    samples = [(number, 0) for number in range(40)]
    whole = data_fingerprint(read(tmp_path), samples)
    assert data_fingerprint(read(tmp_path), samples) == whole
    for number in range(40):
        path = tmp_path / f"{number:02}.png"
        before = path.read_bytes()
        cv2.imwrite(str(path), np.full((8, 9), 200, np.uint8))
        assert data_fingerprint(read(tmp_path), samples) != whole
        path.write_bytes(before)
