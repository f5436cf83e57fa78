"""Transfer on scikit-learn's digits: a backbone that learnt 0 to 4 is given a head for all ten digits.

    OMP_NUM_THREADS=1 python -m tests.performance.transfer [--out docs/results/transfer.json]

Three runs of `bbx.train` on 1,797 pictures of 8 × 8 pixels, enlarged to 32, of which a fifth is held out:
the backbone is trained from random weights on 0 to 4; with that backbone frozen, a head for all ten learns;
and all of it is trained further.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bbx import lazy
from bbx.train_api import train
from tests.training.digits import write_digits

MODEL = "timm:resnet10t"
SIDE = 32
COMMON: dict[str, Any] = {"image_size": SIDE, "batch_size": 64, "augment": "light", "seed": 0}


def main() -> int:
    """Train, print a line a run, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/transfer.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        some = write_digits(root / "some", range(5), side=SIDE)
        ten = write_digits(root / "ten", range(10), side=SIDE)
        base = _run("backbone, 0 to 4", root / "base", data=some, weights="random", epochs=6, lr=2e-3)
        weights = base["checkpoint"]
        runs = {
            "backbone": base,
            "frozen": _run(
                "frozen, all ten",
                root / "frozen",
                data=ten,
                weights=weights,
                freeze_backbone=True,
                epochs=6,
                lr=1e-2,
            ),
            "fine_tuned": _run(
                "fine-tuned, all ten", root / "tuned", data=ten, weights=weights, epochs=6, lr=2e-3
            ),
        }
    figures = {
        "model": MODEL,
        "side": SIDE,
        "command": "OMP_NUM_THREADS=1 python -m tests.performance.transfer",
        "cpus": len(os.sched_getaffinity(0)),
        "versions": {name: lazy.version(name) for name in ("torch", "timm", "pytorch-ignite")},
        "runs": {name: _figures(document) for name, document in runs.items()},
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _run(title: str, out: Path, **options: Any) -> dict[str, Any]:
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = train(MODEL, out=out, **COMMON, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    document["wall_s"] = time.monotonic() - begun
    document["cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    best = document["best"]
    sys.stdout.write(
        f"{title:<22} top-1 {best['value']:.2%} in epoch {best['epoch']} of {len(document['epochs'])}, "
        f"{document['parameters']['trained']:,} parameters learnt, {document['wall_s']:.0f} s "
        f"({document['cpu_s']:.0f} s of CPU)\n"
    )
    return document


def _figures(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "top1": document["best"]["value"],
        "epoch": document["best"]["epoch"],
        "epochs": [
            {name: each[name] for name in ("epoch", "train_loss", "val_loss", "value")}
            for each in document["epochs"]
        ],
        "images": {name: document["data"][name] for name in ("train", "val")},
        "classes": len(document["classes"]),
        "parameters": document["parameters"],
        "wall_s": round(document["wall_s"], 1),
        "cpu_s": round(document["cpu_s"], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
