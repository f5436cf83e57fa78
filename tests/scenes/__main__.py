"""Train the models named on the command line, or all, anew, and say how good they are on unseen scenes.

The one small enough to be kept in the repository, `ssdlite.safetensors` beside this file, is renewed by
copying the file that is named at the end.
"""

from __future__ import annotations

import sys
import time

from tests.scenes.evaluate import score
from tests.scenes.train import NAMES, RECIPES, trained

for name in sys.argv[1:] or NAMES:
    start = time.monotonic()
    module, path = trained(name, lambda line, name=name: sys.stderr.write(f"{name}: {line}\n"), anew=True)
    seconds = time.monotonic() - start
    found = ", ".join(f"{key} {value:.3f}" for key, value in score(module, RECIPES[name].size).items())
    sys.stdout.write(f"{name}: {found}; {seconds:.0f} s, {path.stat().st_size / 1e6:.1f} MB: {path}\n")
