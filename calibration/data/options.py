"""What a user says about calibration data. Imports nothing heavy: commands and steps carry it."""

from __future__ import annotations

from dataclasses import dataclass

from bbx.errors import UsageError


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Which images to calibrate on; plain data, so that a step can hash it and send it to a child process.

    Attributes:
        source: a folder of images, a text list, an `.npy`, an `.npz`, a COCO annotation file, or the record
            of an earlier calibration, which gives the same images again; None for noise, where allowed.
        images: most images used; a source with more is sampled.
        seed: of the sample, of the held-out part, and of noise.
        batch: images a run; a graph with a fixed batch has its own.
        allow_random: take noise where there is no source; what is made from it says so for ever.
        evaluation: another source: the images on which the model will be judged, so that overlap is found.

    Raises:
        UsageError: fewer than two images, or an empty batch.
    """

    source: str | None = None
    images: int = 512
    seed: int = 0
    batch: int = 8
    allow_random: bool = False
    evaluation: str | None = None

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UsageError(
                f"Calibration on {self.images} images was asked for, and it takes at least 2.",
                hint="One part is measured, and on the other the choice between methods is made.",
            )
        if self.batch < 1:
            raise UsageError(
                f"A batch of {self.batch} images was asked for.", hint="Type a batch of 1 or more."
            )
