"""How anatomy and phantoms may vary: the ranges that scenes are drawn from."""

from dataclasses import dataclass
from typing import Literal

from sonodetr.simulator.canvas import Range

Scene = Literal["limb", "abdomen", "heart", "lung", "gel", "tubes", "wires", "water"]
SCENES: tuple[Scene, ...] = (
    "limb",
    "abdomen",
    "heart",
    "lung",
    "gel",
    "tubes",
    "wires",
    "water",
)


@dataclass(frozen=True)
class AnatomyRanges:
    """Ranges of what a scene shows; pairs are the lowest and the highest value.

    Levels are relative to the speckle of muscle (0 dB); attenuations are one way, in dB/cm/MHz.

    Attributes:
        shallow_weights, deep_weights: how often each of `SCENES` is drawn, for pictures up to
            `canvas.DEEP_MM` deep and for deeper ones.
        skin_mm, fat_mm, muscle_mm: thickness of the layers.
        fat_db, muscle_db, connective_db, organ_db, gel_db: level of the speckle.
        blood_db: level inside vessels.
        texture_db: how strongly the speckle's level varies between fibres.
        fascia_db, septum_db, skin_db, wall_db, pleura_db, bone_db, gas_db: level of surfaces.
        fat_attenuation, muscle_attenuation, gel_attenuation, bone_attenuation: loss.
        slope: steepest slope of fascia and layers.
        strands: number of short bright fibres in a whole picture.
        vessels, nerves, lesions, spots: how many of them (the highest is included).
        bone, gas: probability that a scene of soft tissue has them.
        samples: what lies in a water bath: weights of meat, gel block, glove and nothing.
    """

    shallow_weights: tuple[float, ...]
    deep_weights: tuple[float, ...]
    skin_mm: Range
    fat_mm: Range
    muscle_mm: Range
    fat_db: Range
    muscle_db: Range
    connective_db: Range
    organ_db: Range
    gel_db: Range
    blood_db: Range
    texture_db: Range
    fascia_db: Range
    septum_db: Range
    skin_db: Range
    wall_db: Range
    pleura_db: Range
    bone_db: Range
    gas_db: Range
    fat_attenuation: Range
    muscle_attenuation: Range
    gel_attenuation: Range
    bone_attenuation: Range
    slope: float
    strands: Range
    vessels: tuple[int, int]
    nerves: tuple[int, int]
    lesions: tuple[int, int]
    spots: tuple[int, int]
    bone: float
    gas: float
    samples: tuple[float, float, float, float]


STANDARD = AnatomyRanges(
    shallow_weights=(0.62, 0.03, 0.0, 0.05, 0.12, 0.07, 0.04, 0.07),
    deep_weights=(0.2, 0.36, 0.08, 0.12, 0.1, 0.04, 0.04, 0.06),
    skin_mm=(1.0, 2.6),
    fat_mm=(1.5, 12.0),
    muscle_mm=(5.0, 18.0),
    fat_db=(-11.0, -4.0),
    muscle_db=(-8.0, 2.0),
    connective_db=(7.0, 13.0),
    organ_db=(-2.0, 4.0),
    gel_db=(-14.0, 1.0),
    blood_db=(-42.0, -22.0),
    texture_db=(1.5, 4.0),
    fascia_db=(18.0, 33.0),
    septum_db=(12.0, 26.0),
    skin_db=(12.0, 21.0),
    wall_db=(11.0, 22.0),
    pleura_db=(20.0, 28.0),
    bone_db=(25.0, 37.0),
    gas_db=(25.0, 33.0),
    fat_attenuation=(0.4, 0.6),
    muscle_attenuation=(0.6, 0.95),
    gel_attenuation=(0.3, 0.6),
    bone_attenuation=(26.0, 36.0),
    slope=0.2,
    strands=(30.0, 220.0),
    vessels=(0, 3),
    nerves=(0, 2),
    lesions=(0, 2),
    spots=(0, 14),
    bone=0.3,
    gas=0.08,
    samples=(0.4, 0.25, 0.2, 0.15),
)
SHIFTED = AnatomyRanges(
    shallow_weights=(0.45, 0.1, 0.0, 0.12, 0.05, 0.05, 0.1, 0.13),
    deep_weights=(0.1, 0.3, 0.15, 0.2, 0.04, 0.05, 0.08, 0.08),
    skin_mm=(1.8, 3.4),
    fat_mm=(8.0, 25.0),
    muscle_mm=(4.0, 12.0),
    fat_db=(-5.0, 0.0),
    muscle_db=(-6.0, 4.0),
    connective_db=(9.0, 15.0),
    organ_db=(0.0, 7.0),
    gel_db=(-20.0, -8.0),
    blood_db=(-28.0, -16.0),
    texture_db=(3.0, 5.5),
    fascia_db=(24.0, 37.0),
    septum_db=(17.0, 30.0),
    skin_db=(16.0, 25.0),
    wall_db=(6.0, 15.0),
    pleura_db=(24.0, 32.0),
    bone_db=(28.0, 40.0),
    gas_db=(28.0, 37.0),
    fat_attenuation=(0.55, 0.8),
    muscle_attenuation=(0.85, 1.3),
    gel_attenuation=(0.5, 0.9),
    bone_attenuation=(26.0, 36.0),
    slope=0.35,
    strands=(120.0, 320.0),
    vessels=(1, 5),
    nerves=(0, 3),
    lesions=(1, 4),
    spots=(6, 28),
    bone=0.5,
    gas=0.25,
    samples=(0.25, 0.2, 0.45, 0.1),
)
