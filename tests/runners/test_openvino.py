"""What is OpenVINO's own; what it has in common with the other runtimes is in `test_cpu_runners`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from bbx.errors import ArtifactError
from bbx.runners.openvino import OpenvinoRunner
from bbx.runners.ort import OrtRunner
from bbx.runners.registry import open_runner


def test_it_agrees_with_onnx_runtime_to_the_last_bits_of_fp32(
    files: dict[str, Path], nets: ModuleType
) -> None:
    given = nets.feeds(3)
    with OrtRunner(files["onnx"]) as reference, open_runner("openvino", files["onnx"]) as runner:
        wanted, found = reference.infer(given), runner.infer(given)
        assert (runner.name, runner.device) == ("openvino", "cpu")
    # BF16, which it would choose by itself on some CPUs, is 4e-3 off.
    for name, answer in wanted.items():
        assert nets.relative(found[name], answer) < 1e-5


def test_a_measured_run_gives_what_a_plain_one_gives(files: dict[str, Path], nets: ModuleType) -> None:
    with OpenvinoRunner(files["onnx"], threads=1) as runner:
        first, second = nets.feeds(2), nets.feeds(2)
        second = {name: feed + 1 for name, feed in second.items()}
        bound = runner.bind(second)
        samples = bound.sample(5)
        found = bound.outputs()
        assert (samples > 0).all()
        assert bound.clock == "perf_counter_ns"
        other = runner.infer(first)
        for name, answer in runner.infer(second).items():
            np.testing.assert_array_equal(found[name], answer)
            assert not np.array_equal(other[name], answer)


def test_threads_are_those_that_were_asked_for(files: dict[str, Path]) -> None:
    with OpenvinoRunner(files["onnx"], threads=1) as one, OpenvinoRunner(files["onnx"]) as default:
        assert one.threads == 1
        assert default.threads is not None
        assert default.threads >= 1


def test_a_graph_that_it_cannot_compile_says_why(tmp_path: Path, files: dict[str, Path]) -> None:
    model = onnx.load(files["onnx"])
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "strange.onnx")
    with pytest.raises(ArtifactError, match=r"OpenVINO refuses .*strange\.onnx.*NoSuchOperator"):
        OpenvinoRunner(tmp_path / "strange.onnx").__enter__()


def test_external_data_outside_the_folder_is_not_opened(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    model = onnx.load(files["onnx"])
    onnx.save(
        model, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        OpenvinoRunner(folder / "net.onnx").__enter__()


def test_nothing_that_reports_to_its_maker_is_loaded(files: dict[str, Path]) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bbx.runners.openvino import OpenvinoRunner\n"
        "with OpenvinoRunner(Path(sys.argv[1])):\n"
        "    from openvino.tools.ovc import telemetry_utils\n"
        "print(sys.modules['openvino_telemetry'], telemetry_utils.tm.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, files["onnx"]], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["None", "openvino.tools.ovc.telemetry_stub"]


def test_ctrl_c_is_heard_after_two_were_closed_in_the_order_they_were_opened(files: dict[str, Path]) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from bbx.runners.openvino import OpenvinoRunner\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "first, second = (OpenvinoRunner(Path(sys.argv[1])) for _ in range(2))\n"
        "first.__enter__(), second.__enter__()\n"
        "first.__exit__(None, None, None), second.__exit__(None, None, None)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(files["onnx"])], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "heard\n"), found.stderr
