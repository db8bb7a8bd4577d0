"""Compares simulated pictures with real ones: python scripts/compare_real.py DATA_FOLDER OUT.svg

The folder holds real recordings as docs/data.md describes it; what is absent is left out. Real
pictures are cut to the ultrasound picture and shrunk to what a model sees; simulated ones are as
they are. Prints a table and writes one figure (SVG or PNG).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sonodetr.data.region import region_of
from sonodetr.files import InputError, whole_file
from sonodetr.formats import read
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.types import Video

SETS = ("usgra-seg/dataset", "pocus-neuruppin", "itkpocus", "plus")
FILL = 0.85  # of the frame's larger side, as simulated pictures take it on average
DETAIL_PX = 3.0  # what a blur of this width leaves over is detail: speckle and edges
GREYS = np.arange(0, 257, 8)
FREQUENCIES = np.linspace(0.02, 0.5, 25)  # cycles a pixel
LAGS_S = (0.1, 0.4)
Facts = dict[str, float]


def real_videos(folder: Path, stills: int) -> Iterator[tuple[str, Video]]:
    """Real recordings with the name of their set; some of the stills."""
    for name in SETS:
        if not (folder / name).is_dir():
            print(f"{folder / name} is absent and left out", file=sys.stderr)
            continue
        for source in [folder / name] if name.startswith("usgra") else files(folder / name):
            videos = read(source)
            step = max(1, len(videos) // stills)
            yield from ((name.split("/")[0], video) for video in videos[::step])
    try:
        from pydicom.examples import get_path

        yield "pydicom echo", read(get_path("ybr_color"))[0]
    except ImportError:
        print("pydicom is absent, and with it its echocardiogram", file=sys.stderr)


def files(folder: Path) -> list[Path]:
    """Recordings in a folder."""
    return sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".mpeg", ".mha"))


def real_frames(video: Video, size: int) -> tuple[np.ndarray, float]:
    """`[frames, height, width]` a second or less from the middle, as a model sees it, and its rate.

    Stills have one frame.
    """
    region = region_of(video)
    rate = video.frame_rate_hz or 0.0
    count = 1 if rate == 0 else min(len(video), 16)
    start = (len(video) - count) // 2
    scale = FILL * size / max(region.x1 - region.x0, region.y1 - region.y0)
    frames = []
    for index in range(start, start + count):
        pixels = video.frames[index]
        grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        cut = grey[region.y0 : region.y1, region.x0 : region.x1]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        frames.append(cv2.resize(cut, None, fx=scale, fy=scale, interpolation=how))
    return np.stack(frames), rate


def simulated_frames(config: SimulatorConfig, index: int) -> tuple[np.ndarray, float]:
    """The frames of a simulated recording, cut to the ultrasound picture, and their rate."""
    clip = draw_recording(config, index)
    region = clip.layout.rectangle_px
    frames = clip.pictures()[:, region.y0 : region.y1, region.x0 : region.x1]
    return frames, 1 / float(np.diff(clip.motion.times_s).mean())


def picture_mask(frames: np.ndarray) -> np.ndarray:
    """Where the scan lines run: what is lit in any frame, without holes."""
    lit = cv2.morphologyEx((frames.max(0) > 6).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5)))
    points = cv2.findNonZero(lit)
    mask = np.zeros(lit.shape, np.uint8)
    if points is not None:
        cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    return cv2.erode(mask, np.ones((7, 7))).astype(bool)


def detail(frame: np.ndarray) -> np.ndarray:
    """What a blur leaves over, in grey levels."""
    grey = frame.astype(np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), DETAIL_PX)


def half_width(texture: np.ndarray, mask: np.ndarray, axis: int) -> float:
    """Lag in pixels at which the autocorrelation of a texture falls to one half."""
    texture = np.where(mask, texture, 0)
    power = (texture**2).sum() / mask.sum()
    before = 1.0
    for lag in range(1, 13):
        first = np.delete(texture, np.s_[-lag:], axis) * np.delete(texture, np.s_[:lag], axis)
        both = np.delete(mask, np.s_[-lag:], axis) & np.delete(mask, np.s_[:lag], axis)
        now = float(first.sum() / both.sum() / power)
        if now < 0.5:
            return lag - (0.5 - now) / (before - now)
        before = now
    return 13.0


def spectrum(frame: np.ndarray) -> np.ndarray:
    """`[bands]` radially averaged power of the middle square, relative to its sum, in dB."""
    side = min(frame.shape) * 2 // 3
    top, left = ((length - side) // 2 for length in frame.shape)
    square = frame[top : top + side, left : left + side].astype(float)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2((square - square.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    band = np.digitize(radius.ravel(), FREQUENCIES)
    sums = np.bincount(band, power.ravel(), len(FREQUENCIES) + 1)[1:-1]
    counts = np.bincount(band, minlength=len(FREQUENCIES) + 1)[1:-1]
    return 10 * np.log10(sums / counts / max(float(power.sum()), 1e-9) + 1e-12)


def facts_of(frames: np.ndarray, rate_hz: float) -> tuple[Facts, np.ndarray, np.ndarray]:
    """What is compared, with the histogram and spectrum of the middle frame."""
    mask, middle = picture_mask(frames), frames[len(frames) // 2]
    if mask.mean() < 0.1:  # a few echoes in water do not show where the picture ends
        mask[:] = True
    inside, texture = middle[mask], detail(middle)
    levels = spectrum(middle)
    facts: Facts = {
        "black, % of pixels": 100 * float(np.mean(inside < 10)),
        **{f"grey level, p{p}": float(np.percentile(inside, p)) for p in (25, 50, 95, 99)},
        "detail, grey levels": float(texture[mask].std()),
        "grain along, % of height": 100 * half_width(texture, mask, 0) / len(middle),
        "grain across, % of height": 100 * half_width(texture, mask, 1) / len(middle),
        "power at 0.13 to 0.25 / px, dB": float(levels[6:12].mean()),
        "power at 0.25 to 0.5 / px, dB": float(levels[12:].mean()),
    }
    for lag_s in LAGS_S:
        lag = round(lag_s * rate_hz)
        if 0 < lag < len(frames):
            pairs = zip(frames[:-lag:3], frames[lag::3], strict=False)
            facts[f"correlation of detail after {lag_s} s"] = float(
                np.mean([np.corrcoef(detail(a)[mask], detail(b)[mask])[0, 1] for a, b in pairs])
            )
    histogram = np.histogram(inside, GREYS)[0] / len(inside)
    return facts, histogram, levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="simulated recordings")
    parser.add_argument("--stills", type=int, default=60, help="real stills")
    parser.add_argument("--size", type=int, default=256, help="pixels of the frame a model sees")
    parser.add_argument("--domain", choices=("standard", "shifted"), default="standard")
    options = parser.parse_args()
    size = options.size
    real = {}
    for name, video in real_videos(options.data_folder, options.stills):
        real.setdefault(name, []).append(facts_of(*real_frames(video, size)))
    if not real:
        raise InputError(f"{options.data_folder}: none of {', '.join(SETS)} is there")
    config = SimulatorConfig(
        clips=options.clips, frames=12, image_size=(size, size), seed=99, domain=options.domain
    )
    clips = [facts_of(*simulated_frames(config, index)) for index in range(options.clips)]
    print_table(real, clips)
    draw(options.out, real, clips)


Measured = list[tuple[Facts, np.ndarray, np.ndarray]]


def print_table(real: dict[str, Measured], simulated: Measured) -> None:
    """Median and 10th to 90th percentile of every fact, and how many simulated ones are real."""
    print(f"| | {' | '.join(f'{n} ({len(m)})' for n, m in real.items())} | simulated", end="")
    print(f" ({len(simulated)}) | within real range |\n|---|" + "---|" * (len(real) + 2))
    for name in simulated[0][0]:
        columns = [
            np.array([facts[name] for facts, _, _ in group if name in facts])
            for group in (*real.values(), simulated)
        ]
        together = np.concatenate(columns[:-1])
        inside = (columns[-1] >= together.min()) & (columns[-1] <= together.max())
        cells = [
            "{1:.3g} ({0:.3g} to {2:.3g})".format(*np.percentile(c, (10, 50, 90)))
            if len(c)
            else "-"
            for c in columns
        ]
        print(f"| {name} | {' | '.join(cells)} | {100 * inside.mean():.0f}% |")


def draw(path: Path, real: dict[str, Measured], simulated: Measured) -> None:
    """Histograms and spectra, medians with the range from the 10th to the 90th percentile."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sonodetr"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    groups = {"real: " + name: group for name, group in real.items()} | {"simulated": simulated}
    middles = (GREYS[1:] + GREYS[:-1]) / 2, (FREQUENCIES[1:] + FREQUENCIES[:-1]) / 2
    for axis, place, centres in zip(axes, (1, 2), middles, strict=True):
        for name, group in groups.items():
            curves = np.stack([facts[place] for facts in group])
            low, middle, high = np.percentile(curves, (10, 50, 90), axis=0)
            black = name == "simulated"
            style = {"color": "black", "linewidth": 2, "zorder": 3} if black else {"linewidth": 1.2}
            (line,) = axis.plot(centres, middle, label=f"{name} ({len(group)})", **style)
            if black:
                axis.fill_between(centres, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes[0].set(xlabel="grey level", ylabel="share of pixels", yscale="log", ylim=(1e-4, 1))
    axes[1].set(xlabel="cycles a pixel", ylabel="power, dB")
    axes[0].legend(fontsize=7, frameon=False)
    with whole_file(path) as part:
        figure.savefig(part, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
