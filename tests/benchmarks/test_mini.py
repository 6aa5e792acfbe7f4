"""The notebooks as a user starts them: from nothing, and once more when all is up to date."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bncap.pipeline import paths


def test_run_and_run_again(results, full_size, tmp_path, benchmark):
    selection = ["--profile", "mini"] if full_size else ["--profile", "smoke", "--to", "02"]
    command = [sys.executable, "-m", "bncap", "run", *selection]
    folders = {"BNCAP_ARTIFACTS": str(tmp_path / "artifacts"), "BNCAP_FIGURES": str(tmp_path / "figures")}

    def run():
        subprocess.run(command, env=os.environ | folders | {"TQDM_DISABLE": "1"}, cwd=paths.ROOT, check=True)

    for name, call in (("from nothing", run), ("again", lambda: benchmark.pedantic(run, rounds=1))):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        results.append({"benchmark": " ".join(command[3:]), "contender": name, "median s": seconds})
