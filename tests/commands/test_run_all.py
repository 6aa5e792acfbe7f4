import os
import subprocess

import pytest

from bncap.pipeline import paths

SCRIPT = paths.ROOT / "run_all.sh"


def start(folder, programs, **environment):
    """Run the script with shell programs that stand in for the system's own."""
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **environment}
    return subprocess.run([SCRIPT], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("system", ["MINGW64_NT-10.0", "MSYS_NT-10.0", "CYGWIN_NT-10.0"])
def test_windows_is_refused_in_one_line_that_names_wsl(tmp_path, system):
    result = start(tmp_path, {"uname": f"echo {system}"})
    assert result.returncode == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "WSL" in result.stderr


def test_an_active_environment_with_an_old_python_is_refused_before_pip_starts(tmp_path):
    old = 'case "$1" in --version) echo Python 3.8.1;; -c) exit 1;; *) echo pip was started;; esac'
    result = start(tmp_path, {"python": old}, VIRTUAL_ENV="/home/me/env")
    assert result.returncode == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert all(words in result.stderr for words in ("/home/me/env", "Python 3.8.1", "3.11"))


def test_an_active_environment_is_named(tmp_path):
    python = 'case "$*" in *version_info*) exit 0;; *sys.prefix*) echo "$HOME";; *) exit 3;; esac'
    result = start(tmp_path, {"python": python}, CONDA_PREFIX="/home/me/conda")
    assert "using the active environment /home/me/conda" in result.stdout
