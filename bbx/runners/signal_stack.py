"""The stack that signal handlers of this thread run on, kept from a library that puts its own there."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """`stack_t` of glibc and musl."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Afterwards this thread's signals are handled on the stack that they were handled on before.

    For a library that sets a stack for each object that it makes, and puts back the one before it when the
    object goes. Where objects go in another order than they came, that one is freed memory, and the next
    Ctrl-C is a segmentation fault: Python's handlers run on this stack.

    On other systems than Linux nothing is done, nor where Linux refuses the stack that was there before: one
    that is too small for the registers that the library has asked to use.
    """
    if sys.platform != "linux":
        yield
        return
    library = ctypes.CDLL(None)
    before = _Stack()
    known = library.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            library.sigaltstack(ctypes.byref(before), None)
