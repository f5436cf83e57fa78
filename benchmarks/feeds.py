"""What a row is fed with: real photographs where the input is an image, else seeded noise."""

from __future__ import annotations

from bbx.errors import UsageError
from bbx.exporter.verify import Case
from bbx.images import noise_feeds, photograph_batch
from bbx.pipeline.cases import fixed_batch, guess_preprocess
from bbx.types import Preprocess, TensorSpec

_SEED = 30_000


def cases_for(inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None, batch: int) -> list[Case]:
    """Inputs to compare answers on; the first is the one that is measured.

    Two sets of photographs and one of noise, all of the row's own batch, so that no runtime has to
    compile or tune for a shape that is not measured. Two sets of noise where the input is no image.

    Args:
        preprocess: how an image becomes the input; None where nobody said, and then ImageNet's.

    Raises:
        UsageError: the inputs have a fixed batch, and it is another one.
    """
    fixed = fixed_batch(inputs)
    if fixed not in (None, batch):
        raise UsageError(
            f"The artefact has the fixed batch {fixed}, and {batch} was asked for.",
            hint=f"Type --batch {fixed}.",
        )
    how = preprocess or guess_preprocess(inputs)
    noise = [Case(batch, "noise", noise_feeds(inputs, batch, seed=_SEED + turn)) for turn in range(2)]
    if how is None:
        return noise
    name = inputs[0].name
    pictures = [photograph_batch(how, batch, start=turn * batch) for turn in range(2)]
    return [*(Case(batch, "photographs", {name: rows}) for rows in pictures), noise[0]]
