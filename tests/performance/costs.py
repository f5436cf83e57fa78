"""Every preset's FLOPs and parameters against torch's own counter, and what counting costs.

python -m tests.performance.costs
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from bbx.costs.module import module_costs
from bbx.models.outline import outline
from bbx.models.registry import lowered, presets
from bbx.models.spec import ModelSpec
from bbx.types import TensorSpec

BBX = Path(sys.executable).with_name("bbx")
TURNS = 3


def checked(name: str) -> tuple[bool, float]:
    """Whether a preset's counts are torch's, and seconds to build its outline and to count."""
    begun = time.perf_counter()
    model = outline(lowered(ModelSpec(name), "static"))
    (spec,) = model.inputs
    given = TensorSpec(spec.name, spec.dtype, spec.concrete(1))
    costs = module_costs(model.module, [given], [output.name for output in model.outputs])
    seconds = time.perf_counter() - begun
    images = torch.zeros(spec.concrete(1), dtype=getattr(torch, spec.dtype), device="meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.module(images)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    print(f"{name:<40} {costs.flops / 1e9:>9.3f} GFLOPs {parameters / 1e6:>9.3f} M {seconds:6.2f} s")
    return (costs.flops, costs.parameters) == (counter.get_total_flops(), parameters), seconds


def seconds_of(*command: str) -> float:
    """The least of a few runs of a command."""
    taken = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return min(taken)


def main() -> int:
    """Print what was found; the exit code is that of a failed check."""
    found = {preset.name: checked(preset.name) for preset in presets()}
    wrong = [name for name, (right, _) in found.items() if not right]
    imports = seconds_of(sys.executable, "-c", "import torch, torchvision")
    summary = seconds_of(str(BBX), "summary", "resnet50", "-q")
    total = sum(seconds for _, seconds in found.values())
    print(f"{len(found)} presets in {total:.0f} s; counted wrongly: {', '.join(wrong) or 'none'}")
    print(f"bbx summary resnet50: {summary:.2f} s, of which importing torch and torchvision {imports:.2f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
