from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bbx import lazy
from bbx.errors import UnavailableError

HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pydantic", "polygraphy")


def _heavy_after(code: str) -> list[str]:
    """Which heavy libraries a fresh interpreter has loaded after running `code`."""
    report = f"\nimport sys; print('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("loaded:")[2].split()


@pytest.mark.parametrize(
    "code",
    [
        "import bbx",
        "import bbx.cli, bbx.errors, bbx.types, bbx.process, bbx.lazy, bbx.models.registry",
        "from bbx.cli.app import _exit_code; assert _exit_code(['--help']) == 0",
        "from bbx.cli.app import _exit_code; assert _exit_code(['--version']) == 0",
        "from bbx.cli.app import _exit_code; assert _exit_code(['models']) == 0",
        "from bbx.cli.app import _exit_code; assert _exit_code(['models', '--json']) == 0",
        "from bbx.cli.app import _exit_code; assert _exit_code(['export', '--help']) == 0",
        "from bbx.cli.app import _exit_code; assert _exit_code(['build-trt', '--help']) == 0",
    ],
)
def test_help_and_lists_load_no_heavy_library(code: str) -> None:
    assert _heavy_after(code) == []


def test_the_api_loads_no_heavy_library_until_a_verb_needs_it() -> None:
    assert set(_heavy_after("import bbx; bbx.export; bbx.build_engine; bbx.bench")) <= {"pydantic"}


def test_a_missing_module_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lazy._INSTALL, "no_such_module", "pip install 'bbx[nothing]'")
    with pytest.raises(UnavailableError, match=r"not installed. Type: pip install 'bbx\[nothing\]'"):
        lazy.require("no_such_module")
    with pytest.raises(UnavailableError, match="Type: pip install other_missing_module"):
        lazy.require("other_missing_module")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_dependency", "needs no_such_dependency, which is not"),
        ("raise OSError('libnvinfer.so.11: cannot open shared object file\\nmore')", "libnvinfer.so.11"),
        ("raise ImportError('undefined symbol: _Z3foo')", "undefined symbol"),
    ],
)
def test_a_module_that_does_not_load_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "broken_library.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableError, match=said) as caught:
        lazy.require("broken_library")
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_installed_and_version_import_nothing() -> None:
    code = """
from bbx import lazy
assert lazy.installed("torch") and not lazy.installed("no_such_module")
assert lazy.version("onnxruntime")[0].isdigit() and lazy.version("no_such_module") is None
"""
    assert _heavy_after(code) == []


def test_a_module_that_is_there_is_given() -> None:
    assert lazy.require("json").__name__ == "json"
