"""What one picture, or one row of arrays, becomes: one row of each of the network's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx import images
from bbx.errors import BbxError
from bbx.types import Preprocess, TensorSpec

Row = dict[str, NDArray[np.generic]]
"""One array for each input, by the input's name, without the batch dimension."""


@dataclass(frozen=True, slots=True)
class Feeder:
    """How data becomes the inputs of one network.

    Attributes:
        inputs: of the network; the first dimension of each is the batch.
        preprocess: how an image becomes the only input; None where nobody said.

    Raises:
        BbxError: an input has no dimension, or two fix different batches.
    """

    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None

    def __post_init__(self) -> None:
        scalars = [spec.name for spec in self.inputs if not spec.shape]
        if scalars or not self.inputs:
            raise BbxError(
                f"Calibration needs inputs with a batch, and {', '.join(scalars) or 'the graph'} has none."
            )
        if len({spec.shape[0] for spec in self.inputs} - {None}) > 1:
            raise BbxError(f"The graph's inputs fix different batches: {self.wanted}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def batch(self) -> int | None:
        """The batch that the graph fixes; None where it takes any."""
        return next((spec.shape[0] for spec in self.inputs if spec.shape[0] is not None), None)

    @property
    def wanted(self) -> str:
        """The inputs, for error messages."""
        return ", ".join(f"{spec.name} {spec.dtype} {_shape_text(spec.shape)}" for spec in self.inputs)

    def require_images(self, where: object) -> None:
        """Fail, before anything is decoded, where images are no input of this network.

        Raises:
            BbxError: nobody said how an image becomes the input, or what was said gives another shape.
        """
        if self.preprocess is None or len(self.inputs) != 1:
            raise BbxError(
                f"{where} holds images, and nothing says how one becomes the graph's input: {self.wanted}.",
                hint="Give arrays of that shape, as .npy, or as .npz with the inputs' names.",
            )
        spec, given = self.inputs[0], self.preprocess.input_shape
        if not _sizes_fit(given[1:], spec.shape[1:]) or (spec.dtype == "uint8") != (
            self.preprocess.dtype == "uint8"
        ):
            raise BbxError(
                f"Preprocessing by the manifest gives {self.preprocess.dtype} {_shape_text(given)}, "
                f"and the graph takes {self.wanted}."
            )

    def of_image(self, image: Image.Image) -> Row:
        """An upright RGB image, preprocessed; `require_images` has passed."""
        assert self.preprocess is not None
        row = images.apply(image, self.preprocess)
        return {self.inputs[0].name: row.astype(self.inputs[0].dtype, copy=False)}

    def require_row(self, row: Mapping[str, NDArray[np.generic]], where: object) -> None:
        """Fail where arrays are neither rows of the inputs nor pictures.

        Args:
            row: by the inputs' names; shape and dtype are all that is read.
            where: what to call it.

        Raises:
            BbxError: a name, a shape or a dtype is not the network's.
        """
        if set(row) != set(self.names):
            given, wanted = ", ".join(sorted(row)) or "nothing", ", ".join(self.names)
            raise BbxError(f"{where} has arrays for {given}, and the graph's inputs are {wanted}.")
        for spec in self.inputs:
            array = row[spec.name]
            if _fits(array, spec):
                continue
            if self._is_picture(array):
                self.require_images(where)
                continue
            pictures = " Pictures are uint8 N×height×width×3." if self.preprocess is not None else ""
            raise BbxError(
                f"{where} gives {spec.name} as {array.dtype} {_shape_text((None, *array.shape))}, "
                f"and the graph takes {spec.dtype} {_shape_text(spec.shape)}.{pictures}"
            )

    def preprocess_of(self, row: Mapping[str, NDArray[np.generic]]) -> Preprocess | None:
        """What is done to arrays: they are a picture and preprocessed, or rows of the inputs as they are."""
        first = self.inputs[0]
        return None if _fits(row[first.name], first) else self.preprocess

    def of_row(self, row: Mapping[str, NDArray[np.generic]]) -> Row:
        """Rows of the inputs as they are, or a picture, preprocessed; `require_row` has passed."""
        if self.preprocess_of(row) is not None:
            return self.of_image(Image.fromarray(np.asarray(row[self.inputs[0].name], np.uint8)))
        return {name: np.ascontiguousarray(array) for name, array in row.items()}

    def _is_picture(self, array: NDArray[np.generic]) -> bool:
        return (
            self.preprocess is not None
            and array.dtype == np.uint8
            and array.ndim == 3
            and array.shape[2] == 3
        )


def _fits(array: NDArray[np.generic], spec: TensorSpec) -> bool:
    return array.dtype.name == spec.dtype and _sizes_fit(array.shape, spec.shape[1:])


def _sizes_fit(given: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(given) == len(wanted) and all(
        b is None or a in (None, b) for a, b in zip(given, wanted, strict=True)
    )


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "×".join(
        "N" if axis == 0 and size is None else str(size or "?") for axis, size in enumerate(shape)
    )
