"""Compilation in a thread of its own, so that calls need not wait for it."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from pathlib import Path

from .compiler import compile_kernel
from .launch import Kernel


class Compilations:
    """Kernels that were asked for, each for one target, and what became of them.

    One thread compiles what is waiting, one kernel after the other; it ends when nothing waits. A process that ends
    waits for the kernel that is being compiled and for no other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Kernel, str]] = deque()
        self._made: dict[tuple[Kernel, str], Path | None] = {}  # None: waiting, or failed
        self._thread: threading.Thread | None = None

    def wait(self, kernel: Kernel, arch: str) -> Path:
        """The file of a compiled kernel, made by the caller unless it is there.

        Raises:
            RuntimeError: it cannot be compiled.
        """
        made = self._made.get((kernel, arch))
        if made is None:
            made = compile_kernel(kernel, arch)
            self._made[kernel, arch] = made
        return made

    def ready(self, kernel: Kernel, arch: str) -> bool:
        """Whether a kernel is compiled; if nobody has asked for it before, it is from now on being compiled."""
        with self._lock:
            if (kernel, arch) in self._made:
                return self._made[kernel, arch] is not None
            self._made[kernel, arch] = None
            self._waiting.append((kernel, arch))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vsr_kernels-nvrtc")
                self._thread.start()
        return False

    def join(self) -> None:
        """Wait until nothing is waiting any more."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or not threading.main_thread().is_alive():
                    self._thread = None
                    return
                kernel, arch = self._waiting.popleft()
            try:
                self._made[kernel, arch] = compile_kernel(kernel, arch)
            except Exception as error:  # it is the thread's last chance to say so; calls go on with another kernel
                warnings.warn(f"vsr_kernels.nvrtc: {kernel.entry} for {arch} is not used: {error}", stacklevel=1)
