"""Video files through PyAV (FFmpeg): any frame, exactly, at the cost of one group of pictures."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import av
import numpy as np

from sonodetr.files import InputError
from sonodetr.formats.listing import VIDEO_SUFFIXES, checked_index, checked_size, keyed_files
from sonodetr.types import Pixels, Video

# Decoded frames kept around the position, so that overlapping clips do not decode again.
_RECENT = 8
# Frames decoded when a file is opened, to see that its time stamps can be trusted.
_PROBE = 12


class VideoFrames:
    """The frames of one video stream, in the order in which they are shown.

    Going forward streams through the file; going back, or past a key frame, seeks to the last key
    frame before the frame and decodes from there. Grey streams give `[H, W]`, all others RGB.
    Rotation and pixel aspect are ignored. One object serves one thread at a time.

    Attributes:
        path: the file.
        stamps: `[N]` time stamp by which the decoder names each frame.
        keys: `[K]` indices of frames where decoding can start, ascending, the first one 0.
        size: height and width.
    """

    def __init__(
        self, path: str, stamps: np.ndarray, keys: np.ndarray, size: tuple[int, int], grey: bool
    ) -> None:
        self.path = path
        self.stamps = stamps
        self.keys = keys
        self.size = size
        self.grey = grey
        self._decoder: _Decoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, index: int) -> Pixels:
        index = checked_index(index, len(self))
        try:
            # A forked worker must not share its parent's file position.
            if self._decoder is None or self._decoder.process != os.getpid():
                self._decoder = _Decoder(self)
            frame = self._decoder.frame(index)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.path}: frame {index} cannot be decoded ({error})") from error
        if frame is None:
            raise InputError(
                f"{self.path}: frame {index} of {len(self)} cannot be decoded; the file is damaged, "
                "copy it again or convert it"
            )
        if (frame.height, frame.width) != self.size:
            raise InputError(
                f"{self.path}: frame {index} is {frame.width} x {frame.height} pixels, the first one "
                f"{self.size[1]} x {self.size[0]}; split the recording where its size changes"
            )
        return frame.to_ndarray(format="gray" if self.grey else "rgb24")


class _Decoder:
    """An open file at some position; belongs to one process."""

    def __init__(self, frames: VideoFrames) -> None:
        self.process = os.getpid()
        self.keys = frames.keys
        self.stamps = frames.stamps
        self.index_of = {int(stamp): index for index, stamp in enumerate(frames.stamps)}
        self.container, self.stream = _open(frames.path)
        self.recent: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self.position = len(frames)  # index of the last decoded frame; here: nothing to go on from
        self.following: Iterator[tuple[int, av.VideoFrame]] = iter(())

    def frame(self, index: int) -> av.VideoFrame | None:
        """The frame, or None where the stream does not give it."""
        if index in self.recent:
            return self.recent[index]
        key = int(np.searchsorted(self.keys, index, side="right")) - 1
        if self.keys[key] - 1 <= self.position < index:
            return self._advance(index)
        # Where a container seeks inexactly, one key frame earlier is right.
        for start in (key, key - 1, 0):
            if start >= 0 and self._seek(int(self.keys[start])):
                return self._advance(index)
        return None

    def _seek(self, key: int) -> bool:
        self.container.seek(int(self.stamps[key]), stream=self.stream)
        packets = self.container.demux(self.stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                if self.index_of.get(packet.pts, len(self.stamps)) > key:
                    return False
                self.following = self._decode(packet, packets, key)
                self.position = key - 1
                return True
        return False

    def _decode(
        self, first: av.Packet, packets: Iterator[av.Packet], key: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        # Pictures shown before the key frame but stored after it lean on the group before: they
        # come out damaged and are passed over; who wants them starts at the key frame before.
        for packet in chain([first], packets):
            try:
                for frame in packet.decode():
                    index = self.index_of.get(frame.pts)
                    if index is not None and index >= key:
                        yield index, frame
            except av.InvalidDataError:
                continue  # damaged data: the frame is missing, which whoever asks for it is told

    def _advance(self, index: int) -> av.VideoFrame | None:
        for position, frame in self.following:
            self.position = position
            self.recent[position] = frame
            while len(self.recent) > _RECENT:
                self.recent.popitem(last=False)
            if position >= index:
                return frame if position == index else None
        self.position = len(self.stamps)
        return None


def _open(path: str) -> tuple[av.container.InputContainer, av.VideoStream]:
    # Only files: a playlist dressed up as a video must not reach into the network.
    container = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"})
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: has no video stream; give a file with pictures in it")
    stream = container.streams.video[0]
    # One thread: decoder threads do not survive the fork of a data worker.
    stream.codec_context.thread_count = 1
    return container, stream


def _listed(path: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Time stamps of all packets in the order shown, key frames, and whether the file is complete.

    Without decoding. No stamps where the container has none.
    """
    container, stream = _open(path)
    with container:
        packets = [
            (packet.pts, packet.is_keyframe, packet.is_corrupt)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        complete = stream.frames == len(packets) and not any(corrupt for *_, corrupt in packets)
    if any(pts is None for pts, *_ in packets) or len({pts for pts, *_ in packets}) < len(packets):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), False
    packets.sort(key=lambda packet: packet[0])
    stamps = np.array([pts for pts, *_ in packets], np.int64)
    return stamps, np.flatnonzero([key for _, key, _ in packets]), complete


def _decoded(path: str, start: int | None = None, limit: int | None = None) -> list[Any]:
    """Time stamp and key flag of frames as they come out of the decoder, from a key frame on."""
    container, stream = _open(path)
    found: list[Any] = []
    with container:
        if start is not None:
            container.seek(start, stream=stream)
        for packet in container.demux(stream):
            try:
                found += [(frame.pts, frame.key_frame) for frame in packet.decode()]
            except av.InvalidDataError:
                continue
            if limit and len(found) >= limit:
                break
    return found[:limit]


def video_frames(path: str | os.PathLike[str]) -> tuple[VideoFrames, np.ndarray]:
    """The frames of one video file and their times in seconds from the first.

    Packets are listed without decoding; the first few frames are decoded to see whether the list
    can be trusted, otherwise (H.264 with B-frames in AVI, for one) the whole file is decoded once.
    The end of a file that was cut is decoded too, and frames that do not come out are left off.

    Raises:
        InputError: the file is missing, empty, no video, or not one frame can be decoded.
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
        stamps, keys, complete = _listed(name)
        if len(keys):  # what is shown before the first key frame leans on frames that are not there
            stamps, keys = stamps[keys[0] :], keys - keys[0]
        probe = [pts for pts, _ in _decoded(name, limit=_PROBE)]
        if not len(keys) or probe != stamps[: len(probe)].tolist():
            stamps, keys = _decoded_index(name)
        elif not complete:
            ends = {pts for pts, _ in _decoded(name, start=int(stamps[keys[-1]]))}
            while len(stamps) and int(stamps[-1]) not in ends:
                stamps = stamps[:-1]
            keys = keys[keys < len(stamps)]
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: is not a video that can be read ({_line(error)}); it may be cut short, copy "
            "it again or convert it to MP4"
        ) from error
    if not len(stamps) or not len(keys):
        raise InputError(f"{name}: not one frame can be decoded; the file is damaged or empty")
    times_s = (np.sort(stamps) - stamps.min()) * time_base
    return VideoFrames(name, stamps, keys, size, grey), times_s


def _decoded_index(path: str) -> tuple[np.ndarray, np.ndarray]:
    frames = _decoded(path)
    stamps = [pts for pts, _ in frames]
    if None in stamps or len(set(stamps)) < len(stamps):
        raise InputError(
            f"{path}: its frames have no usable time stamps; wrap it anew, "
            "for instance with: ffmpeg -i INPUT -c copy OUTPUT.mkv"
        )
    first = next((index for index, (_, key) in enumerate(frames) if key), len(frames))
    keys = [index - first for index, (_, key) in enumerate(frames) if key]
    return np.array(stamps[first:], np.int64), np.array(keys, np.int64)


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
