"""What data sets are drawn from."""

import numpy as np
import pytest

from sonodetr.simulator.domain import DOMAINS, SHIFTED, STANDARD, ProbeRanges, draw_probe


@pytest.mark.parametrize("name", DOMAINS)
def test_probes_stay_in_their_family(name: str) -> None:
    families = {family.kind: family for family in DOMAINS[name].probes}
    for seed in range(97):
        probe = draw_probe(np.random.default_rng(seed), DOMAINS[name].probes)
        family = families[probe.kind]
        for key in ("frequency_mhz", "depth_mm", "aperture_mm", "width_mm", "radius_mm"):
            low, high = getattr(family, key)
            assert low <= getattr(probe, key) <= high
        assert family.bandwidth[0] <= probe.bandwidth <= family.bandwidth[1]
        assert 0.35 <= probe.focus_mm / probe.depth_mm <= 0.75
        assert probe.lines in family.lines


def test_families_are_drawn_by_their_weights() -> None:
    random = np.random.default_rng(0)
    kinds = [draw_probe(random, STANDARD.probes).kind for _ in range(500)]
    for family in STANDARD.probes:
        assert kinds.count(family.kind) / 500 == pytest.approx(family.weight, abs=0.06)


def test_high_frequencies_see_less_deep() -> None:
    random = np.random.default_rng(0)
    family = (STANDARD.probes[0],)
    probes = [draw_probe(random, family) for _ in range(200)]
    values = np.array([(probe.frequency_mhz, probe.depth_mm) for probe in probes])
    assert np.corrcoef(values.T)[0, 1] < -0.6


def outside(shifted: ProbeRanges, standard: ProbeRanges) -> int:
    """In how many respects most of the one's range lies outside the other's."""
    count = 0
    for key in ("frequency_mhz", "depth_mm", "aperture_mm", "width_mm", "radius_mm", "bandwidth"):
        (low, high), (start, stop) = getattr(shifted, key), getattr(standard, key)
        inside = max(0.0, min(high, stop) - max(low, start))
        count += high > low and inside < 0.5 * (high - low)
    return count


def test_shifted_probes_are_others() -> None:
    for shifted, standard in zip(SHIFTED.probes, STANDARD.probes, strict=True):
        assert shifted.kind == standard.kind
        assert outside(shifted, standard) >= 3, shifted.kind
