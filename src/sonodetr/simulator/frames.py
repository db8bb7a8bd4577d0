"""Simulated recordings as `Video`s: labels at once, pictures made when they are looked at."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from sonodetr.files import InputError, closest
from sonodetr.progress import progress_bar
from sonodetr.simulator.datasets import configure, data_set
from sonodetr.simulator.labels import InstrumentLabel
from sonodetr.simulator.recording import Recording, draw_recording
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.types import PARTS, Labels, Pixels, Video

SCHEME = "simulator:"
_MOST_DIGITS = 18  # Python refuses to read a number of thousands
TRACK_ID = 1  # of the one instrument a recording has
# Pictures that each process keeps: all of needle-small is 98 MB.
_MEMORY_BYTES = 256 * 2**20

Pictures = UInt8[np.ndarray, "frames height width"]
_kept: OrderedDict[tuple[SimulatorConfig, int], Pictures] = OrderedDict()


@dataclass(frozen=True)
class SimulatedFrames:
    """The pictures of clip `index`; a whole clip is made at once, as scanner and codec remember.

    Pickles as settings and a number. Each process keeps the clips it used last, up to 256 MB.
    """

    config: SimulatorConfig
    index: int

    def __len__(self) -> int:
        return self.config.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.config.image_size

    def __getitem__(self, index: int) -> Pixels:
        # A copy, as a view would keep the whole clip alive.
        return _pictures(self.config, self.index)[index].copy()


def _pictures(config: SimulatorConfig, index: int) -> Pictures:
    key = (config, index)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    made = _kept[key] = draw_recording(config, index).pictures()
    while len(_kept) > 1 and sum(clip.nbytes for clip in _kept.values()) > _MEMORY_BYTES:
        _kept.popitem(last=False)
    return made


def clip_name(index: int) -> str:
    """Name of a clip within its data set.

    >>> clip_name(12)
    'clip-00012'
    """
    return f"clip-{index:05d}"


def simulated_video(config: SimulatorConfig, index: int, key: str) -> Video:
    """Clip `index` with its labels; drawing them takes about 20 ms, no picture is made yet.

    Raises:
        InputError: the data set cannot be drawn so.
    """
    recording = draw_recording(config, index)
    return Video(
        key,
        SimulatedFrames(config, index),
        recording.motion.times_s,
        config.instruments,
        dict(enumerate(labels_of(recording))),
        spacing_mm=recording.spacing_mm,
        region_px=recording.layout.rectangle_px,
    )


def labels_of(recording: Recording) -> list[Labels]:
    """What is in every frame: one instrument with tip and entry, or nothing."""
    instrument = recording.instrument
    if instrument is None:
        return [Labels.of([], [])] * len(recording.labels)
    kind = recording.config.instruments.index(instrument.kind)
    return [_labels(label, kind) for label in recording.labels]


def _labels(label: InstrumentLabel | None, kind: int) -> Labels:
    if label is None:
        return Labels.of([], [])
    return Labels.of([label.box_xyxy_px], [kind], [TRACK_ID], [[label.tip_px, label.entry_px]])


def _of_seed(seed: int) -> Video:
    """The first recording of that seed that shows an instrument half of the time."""
    config = configure(frames=64, image_size=(256, 256), seed=seed, empty=0.0)
    for index in range(config.clips):
        video = simulated_video(config, index, f"{SCHEME}{seed}")
        if sum(map(len, video.labels.values())) >= config.frames / 2:
            break
    return video


def read_simulated(address: str) -> list[Video]:
    """The recordings that an address names.

    `simulator:needle-small` is training, validation and test of that data set,
    `simulator:needle-small/shifted` one part and `simulator:needle-small/test/12` one recording;
    `simulator:7` is a single longer recording of a needle, of seed 7, `simulator:` that of seed 0.

    Raises:
        InputError: there is no such data set, part or recording.

    >>> read_simulated("simulator:needle-small/test/12")[0].key
    'test/clip-00012'
    """
    name, *place = address.removeprefix(SCHEME).split("/")
    if not place and (not name or (name.isdecimal() and len(name) <= _MOST_DIGITS)):
        return [_of_seed(int(name or 0))]
    parts = data_set(name)
    if not place:
        names: Sequence[str] = PARTS
    elif place[0] in parts:
        names = place[:1]
    else:
        raise InputError(f"{address}: no part {place[0]!r}; {closest(place[0], parts)}")
    clips = [(part, index) for part in names for index in range(parts[part].clips)]
    if len(place) > 1:
        count, number = len(clips), "/".join(place[1:])
        if not number.isdecimal() or len(number) > _MOST_DIGITS or int(number) >= count:
            raise InputError(
                f"{address}: no recording {number!r}; allowed: 0 to {count - 1}, "
                f"as in {SCHEME}{name}/{names[0]}/0"
            )
        clips = [clips[int(number)]]
    videos = []
    with progress_bar("draw labels", len(clips), "clips") as advance:
        for part, index in clips:
            videos.append(simulated_video(parts[part], index, f"{part}/{clip_name(index)}"))
            advance()
    return videos
