"""From scatterers to the envelope: statistics, levels and losses known beforehand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_scenes import (
    CURVED,
    LINEAR,
    PROBES,
    SILENT_DB,
    amplitude,
    even,
    peaks_db,
    reflectors,
)
from scipy.stats import kstest

from sonodetr.simulator.formation import Echoes, Formation
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import angle_law

each_probe = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)


@each_probe
def test_speckle_is_fully_developed(probe: Probe) -> None:
    """The envelope of muscle follows Rayleigh's law: mean over deviation 1.913, mean square 1."""
    pictures = np.stack([amplitude(probe, even(probe), seed=seed)[0] for seed in range(7)])
    rows = probe.samples // 4
    for start in range(0, probe.samples, rows):
        band = pictures[:, start : start + rows]
        assert band.mean() / band.std() == pytest.approx(1.913, rel=0.03)
        assert np.mean(band**2) == pytest.approx(1, abs=0.04)
    # Samples of four widths of the response apart know nothing of each other.
    apart = pictures[:, 60::9, 20:-20:13].ravel()
    assert kstest(apart, "rayleigh", args=(0, math.sqrt(0.5))).pvalue > 0.01


def test_speckle_has_the_level_of_its_tissue() -> None:
    for echo_db in (-13.0, 7.0):
        picture = amplitude(LINEAR, even(LINEAR, echo_db))[0]
        assert 10 * np.log10(np.mean(picture**2)) == pytest.approx(echo_db, abs=0.3)


def slope_db_cm(probe: Probe, attenuation: float) -> float:
    """What the compensated level gains for each cm."""
    power = np.mean(
        [amplitude(probe, even(probe, 0.0, attenuation), seed=seed)[0] ** 2 for seed in range(7)],
        axis=(0, 2),
    )
    return float(np.polyfit(probe.ranges_mm / 10, 10 * np.log10(power), 1)[0])


def test_attenuation_from_two_frequencies() -> None:
    """The narrow-band method: there and back costs 2 a f dB a cm more than typical tissue does."""
    low, high = (
        Probe("linear", frequency, 0.1, 20.0, 80.0, 40.0, width_mm=50.0) for frequency in (4.0, 7.0)
    )
    for attenuation in (0.3, 1.0):
        steeper = slope_db_cm(high, attenuation) - slope_db_cm(low, attenuation)
        assert 0.6 - steeper / (2 * (7 - 4)) == pytest.approx(attenuation, rel=0.05)


def test_attenuation_of_a_wide_band_by_hand() -> None:
    """`a f - a^2 s^2 / 2` Np, with s = 0.5 x 6 / 2.3548 MHz, and a for 6 cm there and back."""
    probe = Probe("linear", 6.0, 0.5, 20.0, 60.0, 30.0, width_mm=50.0)
    variance = (3 / 2.354820) ** 2
    nepers = {loss: 2 * loss * 6 * math.log(10) / 20 for loss in (0.3, 0.6)}
    loss_db = {loss: 8.68589 * (a * 6 - a * a * variance / 2) for loss, a in nepers.items()}
    formation = Formation(probe, even(probe), Motion.still(1), noise_db=-200.0, seed=(0,))
    assert float(formation.typical_loss_db[-1]) == pytest.approx(loss_db[0.6], rel=1e-4)
    power = [amplitude(probe, even(probe, 0.0, 0.3), seed=s)[0, -20:] ** 2 for s in range(9)]
    gain_db = 10 * np.log10(np.mean(power))
    assert gain_db == pytest.approx(loss_db[0.6] - loss_db[0.3], abs=0.5)


@each_probe
@pytest.mark.parametrize("share", [0.2, 0.45, 0.85])
def test_level_of_a_smooth_surface(probe: Probe, share: float) -> None:
    """A surface across all beams shows at its level, on average over places between samples."""
    lines, levels = np.arange(-8.0, probe.lines + 8, 0.25), []
    for between in (0.0, 0.25, 0.5, 0.75):
        sample = int(share * probe.samples) + between
        x, z = probe.to_picture(np.full(len(lines), sample), lines)
        step = np.hypot(np.gradient(x), np.gradient(z))
        normal = np.degrees(probe.beam_angle_rad(x, z))
        line = reflectors(x, z, step, 20.0, normal)
        picture = amplitude(probe, even(probe, SILENT_DB, surfaces=line))[0]
        levels.append(peaks_db(picture)[10:-10])
    assert np.mean(levels) == pytest.approx(20, abs=0.5)
    assert np.ptp(levels) < 3


@pytest.mark.parametrize("angle_deg", [0, 10, 20, 35, 50, 65])
def test_surfaces_follow_the_angle_law(angle_deg: float) -> None:
    """A straight surface through the focus at an angle, averaged along it."""
    along = np.arange(-6, 6, 0.05)
    angle = math.radians(angle_deg)
    x, z = along * math.cos(angle), 20 + along * math.sin(angle)
    line = reflectors(x, z, 0.05, 30.0, -angle_deg, 20.0)
    levels = peaks_db(amplitude(LINEAR, even(LINEAR, SILENT_DB, surfaces=line))[0])
    covered = int(4 * math.cos(angle) / LINEAR.line_step)
    level = levels[80 - covered // 2 : 80 + covered // 2].mean()
    assert level == pytest.approx(30 + 20 * math.log10(angle_law(angle_deg, 20.0)), abs=1)


def test_a_shadow_by_hand() -> None:
    """Points that cost 9 dB each, one a line, lie over 30 lines: below these it is 9 dB darker."""
    x, z = LINEAR.to_picture(np.full(30, 100.0), np.arange(60.0, 90.0))
    points = Echoes(reflectors(x, z, level_db=SILENT_DB), np.full(30, 9, np.float32))
    with_shadow = amplitude(LINEAR, even(LINEAR), instrument=points)[0]
    without = amplitude(LINEAR, even(LINEAR))[0]
    change_db = 20 * np.log10(with_shadow / without)
    assert change_db[120:, 66:84].mean() == pytest.approx(-9, abs=0.1)
    assert change_db[120:, 115:135].mean() == pytest.approx(0, abs=0.1)
    np.testing.assert_allclose(change_db[:90], 0, atol=0.01)


def test_shadow_of_bone() -> None:
    """Where the map has 30 dB a cm and MHz, the echo from beneath is gone."""
    tissue = even(LINEAR)
    loss = tissue.attenuation_db_cm_mhz.copy()
    loss[50:54] = 30.0  # 20 to 22 mm deep
    picture = amplitude(LINEAR, replace(tissue, attenuation_db_cm_mhz=loss))[0]
    level_db = 10 * np.log10(np.mean(picture**2, 1))
    assert level_db[: int(18 / LINEAR.sample_mm)].mean() == pytest.approx(0, abs=0.5)
    assert level_db[int(24 / LINEAR.sample_mm) :].max() < -40


def test_noise_has_its_level_and_is_lifted_with_depth() -> None:
    formation = Formation(LINEAR, even(LINEAR), Motion.still(1), noise_db=-70.0, seed=(0,))
    lifted_db = -70 + formation.typical_loss_db.numpy()
    pictures = [
        amplitude(LINEAR, even(LINEAR, SILENT_DB), noise_db=-70.0, seed=seed) for seed in range(3)
    ]
    power_db = 10 * np.log10(np.mean(np.concatenate(pictures) ** 2, (0, 2)))
    np.testing.assert_allclose((power_db - lifted_db)[5:-5], 0, atol=1.5)
    assert np.mean(power_db - lifted_db) == pytest.approx(0, abs=0.2)


def test_a_slide_moves_the_speckle_along() -> None:
    """Seven lines to the right: the same speckle, seven lines further left."""
    still = Motion.still(2)
    slide = np.array([[0.0, 0, 0], [7 * LINEAR.line_step, 0, 0]])
    first, second = amplitude(LINEAR, even(LINEAR), replace(still, probe_mm=slide))
    np.testing.assert_allclose(second[9:-9, 20:100], first[9:-9, 27:107], rtol=0.02, atol=0.01)


def test_lifting_moves_the_speckle_up_without_changing_it() -> None:
    """By five samples: the carrier's phase turns evenly, which no envelope shows."""
    probe = Probe("linear", 5.0, 0.12, 20.0, 40.0, 20.0, width_mm=38.0)
    press = np.array([[0.0, 0, 0], [0, 0, 5 * probe.sample_mm]])
    first, second = amplitude(probe, even(probe), replace(Motion.still(2), probe_mm=press))
    inner = slice(40, -40)
    correlation = np.corrcoef(second[40:-45, inner].ravel(), first[45:-40, inner].ravel())[0, 1]
    assert correlation > 0.98


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curvilinear"])
def test_decorrelation_over_elevation(probe: Probe) -> None:
    """Intensities correlate by `exp(-y^2 / l^2)`, l = sqrt(2) slice / 2.3548, at the focus."""
    elevations = np.array([0.0, 0.25, 0.5, 1.0]) * probe.slice_mm
    motion = replace(Motion.still(4), probe_mm=elevations[:, None] * [0.0, 1.0, 0.0])
    focus = int(probe.focus_mm / probe.sample_mm)
    rows = slice(focus - 50, focus + 50)
    frames = np.concatenate(
        [amplitude(probe, even(probe), motion, seed=seed)[:, rows] for seed in range(5)], 2
    )
    length = math.sqrt(2) * probe.slice_mm / 2.354820
    for elevation, frame in zip(elevations, frames, strict=True):
        correlation = np.corrcoef(frame.ravel() ** 2, frames[0].ravel() ** 2)[0, 1]
        assert correlation == pytest.approx(math.exp(-((elevation / length) ** 2)), abs=0.06)


def test_maps_move_with_the_tissue() -> None:
    """A bright right half: its edge goes 5 mm left when the probe slides 5 mm right."""
    tissue = even(LINEAR, -40.0)
    echo = tissue.echo_db.copy()
    echo[:, echo.shape[1] // 2 :] = 0.0
    slide = np.array([[0.0, 0, 0], [5.0, 0, 0]])
    motion = replace(Motion.still(2), probe_mm=slide)
    frames = amplitude(LINEAR, replace(tissue, echo_db=echo), motion)
    edges = [int((np.mean(frame**2, 0) > 0.25).argmax()) for frame in frames]
    assert edges[0] == pytest.approx(80, abs=2)
    assert edges[1] - edges[0] == pytest.approx(-5 / LINEAR.line_step, abs=1)


def test_same_seed_same_picture_whatever_the_chunks_and_threads() -> None:
    slide = np.linspace(0, 1, 4)[:, None] * [1.0, 0.5, 0.3]
    motion = replace(Motion.still(4), probe_mm=slide, rock_rad=np.linspace(0, 0.02, 4))
    line = reflectors(np.arange(-9, 9, 0.1), 15.0, 0.1, 20.0)
    tissue = even(CURVED, surfaces=line)

    def formed(seed: int = 5) -> Formation:
        return Formation(CURVED, tissue, motion, noise_db=-60.0, seed=(seed, 1))

    at_once = formed().image_db(slice(0, 4))
    one_by_one = torch.cat([formed().image_db(slice(frame, frame + 1)) for frame in range(4)])
    torch.testing.assert_close(one_by_one, at_once, rtol=0, atol=1e-3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(formed().image_db(slice(0, 4)), at_once)
    finally:
        torch.set_num_threads(threads)
    assert (formed(6).image_db(slice(0, 1)) - at_once[:1]).abs().mean() > 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_forms_the_same() -> None:
    frames = [
        Formation(
            CURVED, even(CURVED), Motion.still(3), noise_db=-60.0, seed=(5,), device=device
        ).image_db(slice(0, 3))
        for device in ("cpu", "cuda")
    ]
    assert (frames[1].cpu() - frames[0]).abs().median() < 1e-3
