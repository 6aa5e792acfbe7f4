"""The server and its copies: what they see, and that none outlives whoever asked for it."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bncap.errors import BncapError
from bncap.pipeline import warm


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(warm, "preloaded", lambda: ("colorsys",))


def look():
    return os.environ.get("BNCAP_ARTIFACTS"), os.getcwd(), "colorsys" in sys.modules, len(os.listdir("/proc/self/task"))


def parents():
    return os.getpid(), os.getppid()


def gone(process, seconds=20.0):
    """Whether ``process`` has ended, or does so within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_copy_sees_the_callers_environment_and_folder_and_what_was_imported(light, tmp_path, monkeypatch):
    with warm.server():
        monkeypatch.chdir(tmp_path)
        process = warm.Process({"BNCAP_ARTIFACTS": "elsewhere"})
        process.start(look)
        # the second thread waits for the caller's end
        assert process.result() == ("elsewhere", str(tmp_path), True, 2)


def imported():
    missing = [name for name in (*warm.WITHOUT_TORCH, *warm.WITH_TORCH) if name not in sys.modules]
    return missing, "tqdm" in sys.modules, os.getppid()


def test_all_modules_are_imported_beforehand_and_leave_the_server_with_one_thread(monkeypatch):
    monkeypatch.setattr(warm, "GPU_DRIVERS", ())
    with warm.server():
        process = warm.Process()
        process.start(imported)
        missing, bars, server = process.result()
        assert not missing
        assert not bars, "each copy has to import tqdm for itself"
        assert len(os.listdir(f"/proc/{server}/task")) == 1


def test_with_a_gpu_nothing_with_torch_is_imported_beforehand(monkeypatch, tmp_path):
    monkeypatch.setattr(warm, "GPU_DRIVERS", (tmp_path,))
    code = (
        f"import importlib, sys; [importlib.import_module(m) for m in {warm.preloaded()!r}]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_its_owner_can_reach_the_server_and_nothing_of_it_is_left(light):
    with warm.server():
        key, _, address = os.environ[warm.VARIABLE].partition(":")
        folder = Path(address).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_ISSOCK(os.stat(address).st_mode)
        process = warm.Process()
        process.start(parents)
        copy, server = process.result()
        with warm.server():  # the same one
            assert os.environ[warm.VARIABLE] == f"{key}:{address}"
        assert Path(address).exists()
        process.close()
        assert gone(copy)
    assert warm.VARIABLE not in os.environ and not folder.exists() and gone(server)


def test_whoever_has_a_wrong_key_gets_nothing(light):
    with warm.server(), pytest.MonkeyPatch.context() as patch:
        _, _, address = os.environ[warm.VARIABLE].partition(":")
        patch.setenv(warm.VARIABLE, f"wrong:{address}")
        with pytest.raises(BncapError, match="refuses"):
            warm.Process()


def test_a_server_that_has_ended_is_said(light, monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "socket"))
    monkeypatch.setenv(warm.VARIABLE, f"key:{tmp_path / 'socket'}")
    with pytest.raises(BncapError, match="the process from which workers are copied has ended"):
        warm.Process()


ASKS_FOR_A_COPY_THAT_SLEEPS = """
import os, signal, time
from bncap.pipeline import warm
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests were started in the background
warm.preloaded = lambda: ()
with warm.server():
    process = warm.Process()
    process.start(os.getppid)
    server = process.result()
    process.start(time.sleep, 600)
    print(process.pid, server, os.environ[warm.VARIABLE].partition(":")[2], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_run_that_is_ended(end):
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKS_FOR_A_COPY_THAT_SLEEPS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    copy, server, address = asker.stdout.readline().split()
    asker.send_signal(end)
    asker.wait(60)
    assert gone(copy) and gone(server) and not Path(address).parent.exists()
    asker.stdout.close()


class Unreadable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_unreadable():
    raise Unreadable(1, 2)


def test_an_exception_that_cannot_travel_is_told_in_words(light):
    with warm.server():
        process = warm.Process()
        process.start(raise_unreadable)
        with pytest.raises(RuntimeError, match=r"Unreadable: 1 and 2"):
            process.result()
        process.start(look)  # and the process goes on
        assert process.result()[2]
