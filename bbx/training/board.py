"""Curves for TensorBoard, where somebody asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bbx import lazy
from bbx.errors import UnavailableError


class Board:
    """Writes curves into a folder.

    Args:
        folder: where TensorBoard is to find them; None to write nothing.

    Raises:
        UnavailableError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        if not lazy.installed("tensorboard"):
            raise UnavailableError(
                "--log-dir is for TensorBoard, which is not installed.",
                hint=f"Type: {lazy.install_command('tensorboard')}, or leave --log-dir out.",
            )
        self._writer = lazy.require("torch.utils.tensorboard").SummaryWriter(folder)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One more point of each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
