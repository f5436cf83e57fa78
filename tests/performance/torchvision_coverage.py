"""Every torchvision classifier: export to ONNX with parity, and RTX engines in FP32 and FP16.

Run by `make coverage`; writes `docs/results/torchvision.json` and the table `docs/torchvision.md`. Weights
are seeded random ones, so that the table can be made again anywhere; see `checkpoint` for those of which they
prove nothing. Models that are done are kept in the
JSON file, so that a run that was stopped goes on where it was; those that are named are measured anew.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import bbx
from bbx.errors import BbxError, CheckFailed
from tests.performance.warm import warm

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "torchvision.json"
PAGE = ROOT / "docs" / "torchvision.md"


def classifiers() -> list[str]:
    """Names of all of torchvision's classification models, the smallest first."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(
        names, key=lambda name: torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    )


def row(name: str, out: Path) -> dict[str, Any]:
    """What became of one model; from a checkpoint where torchvision zeroes its head, see `checkpoint`."""
    random = exported(name, "random", out)
    if random["export"] == "inconclusive":
        weights = str(checkpoint(name, out / "checkpoint.pth"))
        found = exported(name, weights, out) | {"random": random}
    else:
        weights, found = "random", random
    if found["export"] != "error":
        for precision in ("fp32", "fp16"):
            found[precision] = engine(name, precision, weights, out)
    return {"model": name} | found


def exported(name: str, weights: str, out: Path) -> dict[str, Any]:
    """Verdict of an export, and what there is to say of it."""
    try:
        parity = bbx.export(f"torchvision:{name}", weights=weights, out=out)["parity"]
    except BbxError as error:
        return {"export": "error", "reason": str(error)}
    found = {"export": parity["verdict"], "reason": " ".join(parity["reasons"])}
    return found | ({"rel_l2": worst(parity)} if parity["verdict"] == "pass" else {})


def checkpoint(name: str, path: Path) -> Path:
    """Weights of a network whose head is not all zero, as any that was trained has.

    torchvision zeroes the head of a new ViT. Whatever its backbone computes, its outputs are then all zero,
    and agreeing with them proves nothing.
    """
    import torch
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(name)
    for parameter in module.parameters():
        if parameter.ndim == 2 and not parameter.any():
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    torch.save(module.state_dict(), path)
    return path


def worst(parity: dict[str, Any]) -> float:
    """The largest relative L2 distance of any output in any case."""
    return max(distance["rel_l2"] for case in parity["cases"] for distance in case["outputs"].values())


def engine(name: str, precision: Any, weights: str, out: Path) -> dict[str, Any]:
    """What became of its engine in one precision."""
    try:
        document = bbx.build_engine(f"torchvision:{name}", precision=precision, weights=weights, out=out)
    except CheckFailed as error:
        return {"verdict": "fail", "reason": str(error)}
    except BbxError as error:
        return {"verdict": "error", "reason": str(error)}
    parity = document["parity"]["verdict"]
    return {"verdict": document["precision"]["verdict"], "parity": parity, "targets": document["targets"]}


def share(rows: list[dict[str, Any]], passed: Any) -> str:
    """How many rows a condition holds for, in words."""
    count = sum(1 for each in rows if passed(each))
    return f"{count} of {len(rows)} ({count / len(rows):.1%})"


def page(rows: list[dict[str, Any]], missing: list[str]) -> str:
    """The table as Markdown.

    Args:
        missing: models that the command has not come to yet.
    """
    lines = [
        "# torchvision's classifiers",
        "",
        "Made by `make coverage`: every classification model of torchvision with seeded random weights, "
        "exported to ONNX with parity on photographs and noise, and compiled by TensorRT for RTX without a "
        "GPU. *Engine* columns give the verdict of the precision proof.",
        "",
        *([f"Not measured yet: {', '.join(missing)}.", ""] if missing else []),
        f"- Export with parity `pass`: {share(rows, lambda r: r['export'] == 'pass')}. Of these, "
        f"{share(rows, lambda r: 'random' in r)} are from a checkpoint with a seeded head: torchvision "
        "zeroes the head of a new ViT, and with outputs that are all zero the verdict is `inconclusive`",
        f"- Engine in FP32: {share(rows, lambda r: r.get('fp32', {}).get('verdict') == 'pass')}",
        f"- Engine in FP16: {share(rows, lambda r: r.get('fp16', {}).get('verdict') == 'pass')}",
        "",
        "| model | export | relative L2 | engine FP32 | engine FP16 | FP16 parity | remark |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in rows:
        single, half = each.get("fp32", {}), each.get("fp16", {})
        remarks = [text for text in (each["reason"], single.get("reason"), half.get("reason")) if text]
        distance = f"{each['rel_l2']:.1e}" if "rel_l2" in each else "–"
        verdict = each["export"]
        if "random" in each:
            verdict += " (from a checkpoint)"
            remarks.append(f"With random weights: {each['random']['export']}. {each['random']['reason']}")
        cells = [each["model"], verdict, distance, single.get("verdict", "–")]
        cells += [half.get("verdict", "–"), half.get("parity", "–"), " ".join(remarks).replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Go through the models named on the command line, or all of them."""
    done = {each["model"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    names = sys.argv[1:] or [name for name in classifiers() if name not in done]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        with warm(), tempfile.TemporaryDirectory() as folder:
            done[name] = row(name, Path(folder))
            shutil.rmtree(folder, ignore_errors=True)
        print(f"[{index + 1}/{len(names)}]", json.dumps(done[name]), flush=True)
        RESULTS.write_text(json.dumps([done[key] for key in sorted(done)], indent=1) + "\n")
    missing = sorted(set(classifiers()) - done.keys())
    PAGE.write_text(page([done[key] for key in sorted(done)], missing))


if __name__ == "__main__":
    main()
