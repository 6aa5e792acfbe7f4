"""Kernels for papermill that begin with everything imported: copies of the server of :mod:`bncap.pipeline.warm`."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from jupyter_client import AsyncKernelManager

from bncap.pipeline import warm


class WarmKernelManager(AsyncKernelManager):
    """Starts the kernel through :class:`bncap.pipeline.warm.Process`; to be used within :func:`bncap.pipeline.warm.server`."""

    async def _async_launch_kernel(
        self, kernel_cmd: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None, **_: object
    ) -> None:
        options = kernel_cmd[kernel_cmd.index("-f") :]  # after "python -m ipykernel_launcher"
        self.provisioner.process = _Kernel(options, env, cwd)


class _Kernel:
    """A kernel's process with the part of :class:`subprocess.Popen` that jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, options: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
        self.process = warm.Process(env, cwd)
        self.process.start(_run, list(options))
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return 0 if self.process.connection.closed or self.process.connection.poll() else None

    def wait(self) -> int:
        self.process.connection.poll(None)
        self.process.close()
        return 0

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _run(options: list[str]) -> None:
    """An IPython kernel from here to its shutdown."""
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance

    # Where matplotlib is imported after the kernel's start it draws into the notebook by itself.
    inline = os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    matplotlib.rcParams["backend"] = inline
    launch_new_instance(argv=options)
