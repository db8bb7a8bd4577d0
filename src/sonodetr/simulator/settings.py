"""What defines a simulated data set. Imports no torch."""

from typing import Literal

from pydantic import Field

from sonodetr.config import Section


class SimulatorConfig(Section):
    """A set of simulated recordings; the same values give the same recordings."""

    clips: int = Field(100, ge=1, description="number of recordings")
    frames: int = Field(8, ge=1, description="frames of each recording")
    image_size: tuple[int, int] = Field((160, 160), description="height and width in pixels")
    seed: int = Field(0, ge=0, description="same seed, same recordings")
    domain: Literal["standard", "shifted"] = Field(
        "standard",
        description="shifted: other probes, depths, scanners and anatomy, for a shifted test",
    )
    instruments: tuple[Literal["needle", "catheter", "guidewire"], ...] = Field(
        ("needle",), description="kinds of instruments, drawn equally often"
    )
    empty: float = Field(0.15, ge=0, le=1, description="share of recordings without an instrument")
    frame_rate_hz: float = Field(
        0.0, ge=0, description="frames a second; 0 leaves each scanner its own"
    )
