"""From images to an artefact's input, and from its outputs back to the images, by its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbx.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from bbx.artifact import Manifest
    from bbx.outputs import Result


def preprocess(images: Sequence[Path | str | Image.Image], artefact: Path | str) -> NDArray[np.generic]:
    """Images as an artefact's input, by its manifest alone.

    Args:
        images: paths of image files, or Pillow images.
        artefact: an ONNX graph, TorchScript, pt2 or engine beside its manifest.

    Returns:
        The batch, in the dtype and layout that the artefact takes.

    Raises:
        ArtifactError: there is no manifest, or it does not say how images become the input.
        BbxError: an image cannot be decoded.
    """
    import numpy

    from bbx.images import apply, decode, upright_rgb

    how = _manifest_of(artefact).preprocess
    if how is None:
        raise ArtifactError(f"The manifest of {artefact} does not say how an image becomes its input.")
    decoded = [decode(Path(image)) if isinstance(image, str | Path) else image for image in images]
    return numpy.stack([apply(upright_rgb(image), how) for image in decoded])


def postprocess(
    outputs: Mapping[str, NDArray[Any]], artefact: Path | str, sizes: Sequence[tuple[int, int]]
) -> list[Result]:
    """What an artefact's outputs say about the images, in the images' own pixels, by its manifest alone.

    Args:
        outputs: by name, the batch first.
        artefact: as for `preprocess`.
        sizes: (width, height) of each image before preprocessing.

    Returns:
        `bbx.outputs.Classified`, `Detected` or `Segmented`, one an image.

    Raises:
        ArtifactError: there is no manifest, or it does not say what the outputs are.
        UsageError: the outputs are others, or of another number of images.
    """
    from bbx.outputs import restore

    manifest = _manifest_of(artefact)
    if manifest.preprocess is None or manifest.postprocess is None:
        raise ArtifactError(f"The manifest of {artefact} does not say what its outputs are.")
    return restore(outputs, manifest.preprocess, manifest.postprocess, sizes)


def _manifest_of(artefact: Path | str) -> Manifest:
    from bbx.artifact import read_manifest

    manifest = read_manifest(Path(artefact))
    if manifest is None:
        raise ArtifactError(
            f"{artefact} has no manifest beside it.", hint="`bbx export` and `bbx build-trt` write one."
        )
    return manifest
