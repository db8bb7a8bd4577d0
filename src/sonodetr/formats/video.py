"""Video files through PyAV (FFmpeg): any frame, exactly, for decoding one group of pictures."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sonodetr.files import InputError
from sonodetr.formats.listing import VIDEO_SUFFIXES, checked_index, checked_size, keyed_files
from sonodetr.types import Pixels, Video

# Decoded frames kept around the position, so that overlapping clips do not decode again.
_RECENT = 8
# Frames decoded when a file is opened, to see whether its time stamps can be trusted.
_PROBE = 12
# Containers with an index of their own. In the others a seek may land anywhere, and the time
# stamps that follow it may be wrong.
_INDEXED = ("mov,", "matroska,", "avi")


@dataclass(frozen=True)
class _Index:
    """Where the frames of a stream are.

    Attributes:
        stamps: `[N]` time stamps, in the order in which the frames are shown.
        keys: `[K]` frames where decoding can start, ascending; the first one is 0.
        key_packets: `[K]` number of the packet, from the start of the file, that holds each.
        seekable: whether the container finds a time stamp exactly.
    """

    stamps: np.ndarray
    keys: np.ndarray
    key_packets: np.ndarray
    seekable: bool


class VideoFrames:
    """The frames of one video stream, in the order in which they are shown.

    Going forward streams through the file; going back, or past a key frame, starts at the last key
    frame before the wanted one. Grey streams give `[H, W]`, all others RGB. Rotation and pixel
    aspect are ignored: labels are drawn on the pixels as stored. One object serves one thread.
    """

    def __init__(self, path: str, index: _Index, size: tuple[int, int], grey: bool) -> None:
        self.path = path
        self.index = index
        self.size = size
        self.grey = grey
        self._decoder: _Decoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}

    def __len__(self) -> int:
        return len(self.index.stamps)

    def __getitem__(self, index: int) -> Pixels:
        index = checked_index(index, len(self))
        try:
            # A forked worker must not share its parent's position in the file.
            if self._decoder is None or self._decoder.process != os.getpid():
                self._decoder = _Decoder(self.path, self.index)
            frame = self._decoder.frame(index)
            if frame is not None and (frame.height, frame.width) == self.size:
                return self._decoder.pixels(frame, "gray" if self.grey else "rgb24")
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"{self.path}: frame {index} cannot be read ({_line(error)})"
            ) from error
        if frame is None:
            raise InputError(
                f"{self.path}: frame {index} of {len(self)} cannot be decoded; the file is "
                "damaged, copy it again or convert it"
            )
        raise InputError(
            f"{self.path}: frame {index} is {frame.width} x {frame.height} pixels, the header says "
            f"{self.size[1]} x {self.size[0]}; split the recording where its size changes"
        )


class _Decoder:
    """An open file at some position; belongs to one process."""

    def __init__(self, path: str, index: _Index) -> None:
        self.process = os.getpid()
        self.path = path
        self.index = index
        self.position_of: dict[int | None, int] = {
            stamp: place for place, stamp in enumerate(index.stamps.tolist())
        }
        self.container, self.stream = _open(path)
        self.reformatter = VideoReformatter()
        self.recent: OrderedDict[int, VideoFrame] = OrderedDict()
        self.following: Iterator[tuple[int, VideoFrame]] = iter(())
        self.position = len(index.stamps)  # last decoded frame; at first nothing to go on from

    def frame(self, wanted: int) -> VideoFrame | None:
        """The frame, or None where the stream does not give it."""
        if wanted in self.recent:
            return self.recent[wanted]
        key = int(np.searchsorted(self.index.keys, wanted, side="right")) - 1
        if not self.index.keys[key] - 1 <= self.position < wanted:
            self.start(key)
        for position, frame in self.following:
            self.position = position
            self.recent[position] = frame
            if len(self.recent) > _RECENT:
                self.recent.popitem(last=False)
            if position >= wanted:
                return frame if position == wanted else None
        self.position = len(self.index.stamps)
        return None

    def pixels(self, frame: VideoFrame, layout: str) -> Pixels:
        """The frame as an array of its own."""
        return self.reformatter.reformat(frame, format=layout, threads=1).to_ndarray()

    def start(self, key: int) -> None:
        """Go to the key frame with this number."""
        first = int(self.index.keys[key])
        self.position = first - 1
        if self.index.seekable:
            stamp = int(self.index.stamps[first])
            self.container.seek(stamp, stream=self.stream)
            packets = _packets(self.container, self.stream)
            found = next((packet for packet in packets if packet.is_keyframe), None)
            if found is not None and self.position_of.get(found.pts, first + 1) <= first:
                self.following = self._decode(chain([found], packets), first)
                return
        # Read from the start, without decoding, up to the packet that holds the key frame.
        self.container.close()
        self.container, self.stream = _open(self.path)
        packets = _packets(self.container, self.stream)
        self.following = self._decode(
            islice(packets, int(self.index.key_packets[key]), None), first
        )

    def _decode(self, packets: Iterator[Any], first: int) -> Iterator[tuple[int, VideoFrame]]:
        # Pictures shown before the key frame but stored after it lean on the group before, and come
        # out damaged: who wants them starts at the key frame before.
        for frame in _frames(packets):
            position = self.position_of.get(frame.pts)
            if position is not None and position >= first:
                yield position, frame


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Any]:
    try:
        for packet in container.demux(stream):
            # An empty packet (a frame dropped by an AVI writer) would end the decoding. The last
            # one, which has no time either, is meant to.
            if packet.size or packet.dts is None:
                yield packet
    except IndexError:
        return  # PyAV trips at the end over streams that appeared on the way; ours is through


def _frames(packets: Iterator[Any]) -> Iterator[VideoFrame]:
    for packet in packets:
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue  # damaged data: the frame is missing, which whoever asks for it is told


def _open(path: str) -> tuple[InputContainer, VideoStream]:
    # Only files: a playlist dressed up as a video must not reach into the network.
    container = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"})
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: has no video stream; give a file with pictures in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise InputError(f"{path}: its coding is unknown; convert it to MP4 (H.264)")
    # One thread: decoder threads do not survive the fork of a data worker.
    stream.codec_context.thread_count = 1
    return container, stream


def video_frames(path: str | os.PathLike[str]) -> tuple[VideoFrames, np.ndarray]:
    """The frames of one video file, and `[N]` times in seconds from the first.

    Packets are listed without decoding. The first few frames are decoded to see whether the list
    can be trusted; if not (H.264 with B-frames in AVI, for one) the whole file is decoded once.
    Where the container's own count differs or is missing, the last group is decoded too, and frames
    at the end that do not come out (a file that was cut) are left off.

    Raises:
        InputError: the file is missing, empty, no video, or not one frame of it can be decoded.
    """
    ((_, file),) = keyed_files(path, VIDEO_SUFFIXES, "a video")
    name = str(file)
    try:
        container, stream = _open(name)
        with container:
            context = stream.codec_context
            size = checked_size(context.height, context.width, name)
            grey = (context.pix_fmt or "").startswith("gray")
            time_base = float(stream.time_base or 1)
        index = _list(name)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: is not a video that can be read ({_line(error)}); it may be cut short, copy "
            "it again or convert it to MP4"
        ) from error
    times_s = (np.sort(index.stamps) - index.stamps.min()) * time_base
    return VideoFrames(name, index, size, grey), times_s


class _Packet(NamedTuple):
    stamp: int | None
    key: bool
    shown: bool
    corrupt: bool


def _list(path: str) -> _Index:
    container, stream = _open(path)
    with container:
        packets = [
            _Packet(packet.pts, packet.is_keyframe, not packet.is_discard, packet.is_corrupt)
            for packet in _packets(container, stream)
            if packet.size
        ]
        complete = stream.frames == len(packets) and not any(one.corrupt for one in packets)
        seekable = container.format.name.startswith(_INDEXED)
    shown = [packet.stamp for packet in packets if packet.shown and packet.stamp is not None]
    index = _index(packets, sorted(shown), seekable)
    probe = _decoded_stamps(path, _PROBE)
    if len(shown) < len(packets) or probe != index.stamps[: len(probe)].tolist():
        index = _index(packets, _decoded_stamps(path), seekable)
    if not complete and len(index.keys):
        index = _without_lost_end(path, index)
    if not len(index.keys):
        raise InputError(f"{path}: not one frame can be decoded; the file is damaged or empty")
    return index


def _index(packets: list[_Packet], stamps: list[Any], seekable: bool) -> _Index:
    position_of = {stamp: position for position, stamp in enumerate(stamps)}
    keys = sorted(
        (position_of[packet.stamp], number)
        for number, packet in enumerate(packets)
        if packet.key and packet.stamp in position_of
    )
    # What is shown before the first key frame leans on frames that are not in the file.
    first = keys[0][0] if keys else len(stamps)
    pairs = np.array(keys, np.int64).reshape(-1, 2)
    return _Index(np.array(stamps[first:], np.int64), pairs[:, 0] - first, pairs[:, 1], seekable)


def _decoded_stamps(path: str, limit: int | None = None) -> list[Any]:
    container, stream = _open(path)
    with container:
        stamps = [frame.pts for frame in islice(_frames(_packets(container, stream)), limit)]
    if None in stamps or len(set(stamps)) < len(stamps):
        raise InputError(
            f"{path}: its frames have no usable time stamps; wrap it anew, for instance with: "
            "ffmpeg -fflags +genpts -i INPUT -c copy OUTPUT.mkv"
        )
    return stamps


def _without_lost_end(path: str, index: _Index) -> _Index:
    decoder = _Decoder(path, index)
    for key in reversed(range(len(index.keys))):
        decoder.start(key)
        if found := [position for position, _ in decoder.following]:
            end = max(found) + 1
            kept = index.keys < end
            return replace(
                index,
                stamps=index.stamps[:end],
                keys=index.keys[kept],
                key_packets=index.key_packets[kept],
            )
    return replace(index, keys=index.keys[:0])


def _line(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).split("\n")[0]


def read_video(path: str | os.PathLike[str]) -> list[Video]:
    """One video file, or every one below a folder, each as a recording.

    Raises:
        InputError: there is no video, or one of them cannot be read.
    """
    videos = []
    for key, file in keyed_files(path, VIDEO_SUFFIXES, "video"):
        frames, times_s = video_frames(file)
        videos.append(Video(key, frames, times_s))
    return videos
