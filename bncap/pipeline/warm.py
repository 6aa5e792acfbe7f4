"""Processes that have nothing left to import: each is forked in milliseconds from one that has imported everything.

torch, transformers and what Jupyter needs take a processor six seconds to import.  The miniature runs eleven notebooks
and two workers in each of nine places, so it would spend two minutes on that alone.  Here one server process imports
once, and the notebooks' kernels (:mod:`bncap.pipeline.kernels`) and the workers (:mod:`bncap.pipeline.workers`) are copies of it.

Every process is fresh, so that a result cannot depend on what another job did before; it gets the environment, the
working folder and the module path of whoever asked for it; and it ends as soon as that one does, whatever way it ended.
The socket lies in a folder that only its owner can enter, and asks for a key.

A fork copies the calling thread alone, and no CUDA context survives it: the server therefore has one thread and, on a
machine with a GPU, imports nothing that could touch it; its copies import for themselves there.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from multiprocessing.pool import RemoteTraceback
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn

from bncap.errors import BncapError

VARIABLE = "BNCAP_WARM"
"""Environment variable with the key and the socket of the server, for the processes within :func:`server`."""
WITHOUT_TORCH = (
    "ipykernel.kernelapp", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas.io.formats.style",
)  # fmt: skip
WITH_TORCH = (
    "timm", "transformers.models.mbart.modeling_mbart", "transformers.models.mbart50.tokenization_mbart50",
    "transformers.models.gpt2.modeling_gpt2", "sentence_transformers", "bert_score.utils",
    "nltk.translate.meteor_score", "sacrebleu", "sklearn.neighbors",
)  # fmt: skip
"""What notebooks and jobs import; our own modules are quick once these are there."""
GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_KEY_BYTES = 32
_LONGEST_FOLDER = 80
"""A socket's path may have 107 characters."""


@contextmanager
def server() -> Iterator[None]:
    """Warm processes can be had in here, of the server around it if there is one."""
    if VARIABLE in os.environ:
        yield
        return
    short = len(tempfile.gettempdir()) <= _LONGEST_FOLDER
    folder = Path(tempfile.mkdtemp(prefix="bncap-", dir=None if short else "/tmp"))  # mode 0700
    key = secrets.token_hex(_KEY_BYTES // 2).encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)  # from here on they may ask; they wait until everything is imported
        modules = preloaded()
        code = f"import sys; sys.path[:] = {sys.path!r}; from bncap.pipeline import warm"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}; warm.serve({listener.fileno()}, {str(folder)!r}, {modules!r})"],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the process that was started by hand
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # else numpy and scipy start threads when imported
        )
    process.stdin.write(key)
    process.stdin.flush()
    os.environ[VARIABLE] = f"{key.decode()}:{folder / 'socket'}"
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        process.kill()  # it may be importing still, and there is nothing to tidy but its folder
        process.wait()
        process.stdin.close()
        shutil.rmtree(folder, ignore_errors=True)


def preloaded() -> Sequence[str]:
    """Names of the modules that the server imports on this machine."""
    gpu = any(driver.exists() for driver in GPU_DRIVERS)
    return WITHOUT_TORCH if gpu else WITHOUT_TORCH + WITH_TORCH


class Process:
    """A copy of the server that runs functions, one after the other, until :meth:`close` or its own end.

    ``environment`` and ``folder`` are what it sees as its environment and working folder (default: the caller's).
    Raises :class:`BncapError` if there is no server that answers.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, folder: str | None = None) -> None:
        key, _, address = os.environ[VARIABLE].partition(":")
        try:
            self.connection = Client(address, "AF_UNIX", authkey=key.encode())
            self.connection.send((dict(environment or os.environ), folder or os.getcwd(), sys.path))
            self.pid: int = self.connection.recv()
        except AuthenticationError as error:
            raise BncapError(f"{address} refuses: {VARIABLE} in the environment is of another run") from error
        except (OSError, EOFError) as error:
            raise BncapError(
                "the process from which workers are copied has ended, most likely for lack of memory; start again"
            ) from error

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin ``function(*arguments)``; both must pickle."""
        self.connection.send_bytes(ForkingPickler.dumps((function, arguments)))

    def result(self) -> Any:
        """Of the function that was started: waits for it, and raises what it raised; EOFError if the process died."""
        try:
            value, error, where = pickle.loads(self.connection.recv_bytes())
        except ConnectionResetError as reset:
            raise EOFError from reset
        if error is not None:
            raise error from RemoteTraceback(where)
        return value

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()


def serve(descriptor: int, folder: str, modules: Sequence[str]) -> NoReturn:
    """Body of the server process: fork a copy for each connection until the process that started it is gone."""
    key = os.read(0, _KEY_BYTES)
    listener = socket.socket(fileno=descriptor)
    for module in modules:
        with suppress(Exception):  # the job that needs it will say what is wrong with it
            importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        del sys.modules[name]  # it looks at the environment, and whether it is in a notebook, only when imported
    gc.collect()
    gc.freeze()  # what is here is shared by all copies as long as nobody writes to it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:  # the end of the pipe that the starter holds
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
        connected, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _work(Connection(connected.detach()), key)
        connected.close()


def _work(connection: Connection, key: bytes) -> NoReturn:
    """Body of a copy: run what comes through ``connection``."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        environment, folder, path = connection.recv()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        connection.send(os.getpid())
        threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        pass  # no more work
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # not through the server's code, nor through the second that torch takes to go


def _answer(message: bytes) -> Any:
    """The pickled outcome of the pickled function in ``message``: result, exception or None, traceback."""
    try:
        function, arguments = pickle.loads(message)
        return ForkingPickler.dumps((function(*arguments), None, ""))
    except Exception as error:
        where = traceback.format_exc()
        try:
            answer = ForkingPickler.dumps((None, error, where))
            pickle.loads(answer)  # some exceptions can be written and not read
        except Exception:
            answer = ForkingPickler.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), where))
        return answer


def _end_with(descriptor: int) -> NoReturn:
    """End this process when the other side of the socket is closed: nobody would see the result."""
    hang_up = select.poll()
    hang_up.register(descriptor, 0)
    hang_up.poll()
    os._exit(1)
