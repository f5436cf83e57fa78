"""bbx: from a PyTorch backbone and head to TorchScript, ONNX and TensorRT engines, with proof.

    import bbx

    bbx.build("resnet50")                              # a torch module with its inputs and preprocessing
    bbx.summary("resnet50", gpu="h100-sxm")            # layers, parameters, FLOPs, bytes and a roofline
    bbx.export("resnet50", format="onnx")              # an artefact and its parity proof
    bbx.quantize("resnet50", calib="photos/")          # an INT8 graph, its record and its accuracy
    bbx.build_engine("resnet50", precision="fp16")     # an engine and its precision proof
    bbx.parity("resnet50.int8.onnx")                   # every stage from torch to the artefact
    bbx.bisect("resnet50.int8.onnx")                   # the nodes that lose it, and the graph without them
    bbx.evaluate(["a.onnx", "b.onnx"], "pets/test")    # task metrics side by side, with intervals and flips
    bbx.predict("a.onnx", ["cat.jpg"])                 # labels, boxes or masks, in the image's pixels
    bbx.bench(["resnet50"], runtimes=["ort-cpu"])      # measurements with verdicts
    bbx.compare("old.onnx", "new.onnx")                # faster, slower, same, or not known
    bbx.report(["run-1", "run-2"], out="merged")       # several runs in one report
    bbx.train("resnet50", data="pets/")                # a head for the classes at hand, and its checkpoint
    bbx.preprocess(["cat.jpg"], "resnet50.onnx")       # images to an artefact's input, by its manifest
    bbx.postprocess(outputs, "resnet50.onnx", sizes)   # its outputs to labels, boxes or masks of the images

The verbs are imported when they are first used: `import bbx` loads no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bbx.version import __version__

if TYPE_CHECKING:
    from bbx.api import bench, build, build_engine, export, quantize
    from bbx.benchmarks.compare import compare
    from bbx.benchmarks.reports import report
    from bbx.by_manifest import postprocess, preprocess
    from bbx.costs.summary import summary
    from bbx.evaluate_api import evaluate, predict
    from bbx.train_api import train
    from bbx.verify_api import bisect, parity

__all__ = [
    "__version__",
    "bench",
    "bisect",
    "build",
    "build_engine",
    "compare",
    "evaluate",
    "export",
    "parity",
    "postprocess",
    "predict",
    "preprocess",
    "quantize",
    "report",
    "summary",
    "train",
]

_HOMES = {
    "compare": "bbx.benchmarks.compare",
    "bisect": "bbx.verify_api",
    "evaluate": "bbx.evaluate_api",
    "parity": "bbx.verify_api",
    "postprocess": "bbx.by_manifest",
    "predict": "bbx.evaluate_api",
    "preprocess": "bbx.by_manifest",
    "report": "bbx.benchmarks.reports",
    "summary": "bbx.costs.summary",
    "train": "bbx.train_api",
}
"""Where the names are that are not in `bbx.api`."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "bbx.api")), name)
    raise AttributeError(f"module 'bbx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
