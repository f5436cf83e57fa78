"""Choosing between TensorRT and TensorRT for RTX: once a process, before anything imports either."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import get_args

from bbx import lazy
from bbx.errors import UsageError, did_you_mean
from bbx.types import Flavor

MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""The Python module of each flavour."""

_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"


def trt_module(flavor: Flavor) -> ModuleType:
    """Import one flavour of TensorRT, and make Polygraphy use the same one.

    Polygraphy reads its switch once, when it is first imported, so a process is of one flavour for good.

    Raises:
        UsageError: the flavour is unknown, or this process already uses the other one.
        UnavailableError: the flavour is not installed or does not load.
    """
    if flavor not in MODULES:
        raise UsageError(
            f"There is no TensorRT flavour {flavor!r}.", hint=did_you_mean(flavor, get_args(Flavor))
        )
    wants_rtx = flavor == "rtx"
    other = MODULES["tensorrt" if wants_rtx else "rtx"]
    polygraphy = sys.modules.get("polygraphy.config")
    if other in sys.modules or (polygraphy is not None and wants_rtx != polygraphy.USE_TENSORRT_RTX):
        raise UsageError(
            f"This process already uses the other flavour of TensorRT, so {flavor} cannot be loaded.",
            hint="Use one flavour in one process.",
        )
    os.environ[_SWITCH] = "1" if wants_rtx else "0"
    return lazy.require(MODULES[flavor])
