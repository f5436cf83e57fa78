"""What making a graph in 16 bits takes in memory, by the weights and the activations of its network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH = 16, 2048
WEIGHT_BYTES = LAYERS * WIDTH * WIDTH * 4
BRANCHES, BRANCH = 24, 2_000_000

_TYPED = """
import json, resource, sys
from pathlib import Path
from bbx.pipeline.steps import TypedStep
from bbx.pipeline.typed import typed_task
from bbx.runners.ort import OrtRunner

def anonymous():
    [line] = [line for line in open("/proc/self/status") if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024

source, out = map(Path, sys.argv[1:])
start = anonymous()
with OrtRunner(source) as runner:
    opened = anonymous() - start
closed = anonymous() - start
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - opened
document = typed_task({"step": TypedStep("", source, "fp16").to_request(), "path": str(out)})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(json.dumps({"opened": opened, "closed": closed, "peak": peak, "parity": document["parity"]["verdict"]}))
"""


_SCANNED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from bbx.calibration.ranges import activation_ranges

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

source, width = Path(sys.argv[1]), int(sys.argv[2])
row = np.linspace(-1, 1, width, dtype=np.float32)[None]
before = peak()
ranges = activation_ranges(source, [{"x0": row}, {"x0": row * 2}])
print(json.dumps({"peak": peak() - before, "tensors": len(ranges), "highest": ranges["x0"].maximum}))
"""


_TRIED = """
import json, resource, sys
import numpy as np, onnx
from bbx.calibration.sessions import session

def now(field):
    [line] = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) * 1024

row = np.linspace(-1, 1, int(sys.argv[2]), dtype=np.float32)[None]
with session(onnx.load(sys.argv[1]), "a test", exact=True) as opened:
    peak, held = now("VmHWM:"), now("VmRSS:")
    for _ in range(3):
        opened.run({"x": row})
    print(json.dumps({"peak": now("VmHWM:") - peak, "held": now("VmRSS:") - held}))
"""


def _graph(path: Path) -> None:
    """A chain of products with as many weights as said above."""
    values = np.random.default_rng(0).normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
    weights = [numpy_helper.from_array(np.roll(values, layer), f"w{layer}") for layer in range(LAYERS)]
    nodes = [
        helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"]) for layer in range(LAYERS)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])
        for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_a_typed_graph_is_made_in_three_and_a_half_times_the_memory_of_its_weights(tmp_path: Path) -> None:
    _graph(tmp_path / "net.onnx")
    command = [sys.executable, "-c", _TYPED, str(tmp_path / "net.onnx"), str(tmp_path / "net.fp16.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parity"] == "pass"
    assert found["opened"] > 0.9 * WEIGHT_BYTES
    assert found["closed"] < 0.2 * WEIGHT_BYTES, "a closed session's memory stays with the process"
    assert found["peak"] < 3.5 * WEIGHT_BYTES


def test_a_range_scan_keeps_few_activations_at_a_time(tmp_path: Path) -> None:
    layers, width = 40, 4_000_000
    nodes = [helper.make_node("Sin", [f"x{layer}"], [f"x{layer + 1}"]) for layer in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{end}", TensorProto.FLOAT, [1, width]) for end in (0, layers)]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "net.onnx")
    command = [sys.executable, "-c", _SCANNED, str(tmp_path / "net.onnx"), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["tensors"], found["highest"]) == (layers + 1, 2.0)
    assert found["peak"] < 12 * width * 4


def _branches(path: Path, *, together: bool) -> None:
    """As many large tensors as BRANCHES, all made before any is read: added up one by one, or all at once."""
    numbers = range(BRANCHES)
    nodes = [helper.make_node("Mul", ["x", f"by{number}"], [f"a{number}"]) for number in numbers]
    if together:
        nodes.append(helper.make_node("Sum", [f"a{number}" for number in numbers], ["all"]))
        nodes.append(helper.make_node("ReduceSum", ["all"], ["y"], keepdims=0))
    else:
        nodes += [helper.make_node("ReduceSum", [f"a{each}"], [f"b{each}"], keepdims=0) for each in numbers]
        nodes.append(helper.make_node("Sum", [f"b{number}" for number in numbers], ["y"]))
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, BRANCH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.float32(number), f"by{number}") for number in numbers],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _tried(path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _TRIED, str(path), str(BRANCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_trial_keeps_few_activations_at_a_time(tmp_path: Path) -> None:
    """Whatever their order in the graph: a pyramid's levels stand there one layer after the other."""
    _branches(tmp_path / "net.onnx", together=False)
    assert _tried(tmp_path / "net.onnx")["peak"] < BRANCHES / 4 * BRANCH * 4


def test_a_trial_keeps_nothing_when_it_is_done(tmp_path: Path) -> None:
    _branches(tmp_path / "net.onnx", together=True)
    found = _tried(tmp_path / "net.onnx")
    assert found["peak"] > BRANCHES * BRANCH * 4
    assert found["held"] < BRANCHES / 4 * BRANCH * 4
