"""Options and fixtures of the benchmarks, and the table of medians, ratios and operations.

``python -m pytest tests/benchmarks --benchmark-only`` measures small sizes in about two minutes; ``--full-size`` takes
those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bncap.device import keep_freed_memory

from .models import FULL, SMALL, Scale

RESULTS = pytest.StashKey[list[dict]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-size", action="store_true", help="measure the paper's sizes instead of the miniature's")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


@pytest.fixture(scope="session")
def full_size(request) -> bool:
    return request.config.getoption("--full-size")


@pytest.fixture(scope="session")
def scale(full_size) -> Scale:
    keep_freed_memory()  # as training does
    torch.set_num_threads(torch.get_num_threads() if full_size else 1)
    return FULL if full_size else SMALL


@pytest.fixture(scope="session")
def results(request) -> list[dict]:
    """The rows of the table that is printed in the end."""
    return request.config.stash[RESULTS]


@pytest.fixture
def measure(benchmark, results, scale) -> Callable[..., None]:
    """``measure(group, name, call, items)``: time ``call``, which handles ``items``, and count its operations.

    The first name that a group gets is the reference of its ratios.
    """

    def run(group: str, name: str, call: Callable[[], object], items: int = 1, rounds: int | None = None) -> None:
        benchmark.group = group
        with FlopCounterMode(display=False) as counter:
            call()  # also the warm-up
        benchmark.pedantic(call, rounds=rounds or scale.rounds)
        median = benchmark.stats.stats.median
        record = {"benchmark": group, "contender": name, "median s": median, "items/s": items / median}
        results.append(record | {"GFLOP": counter.get_total_flops() / 1e9})

    return run


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print the table; ``ratio`` is the time of a contender over that of the first of its group."""
    if not config.stash[RESULTS]:
        return
    table = pd.DataFrame(config.stash[RESULTS])
    table["ratio"] = table["median s"] / table.groupby("benchmark")["median s"].transform("first")
    formats = {"median s": "{:.4g}", "items/s": "{:,.4g}", "GFLOP": "{:,.3g}", "ratio": "{:.2f}"}
    terminalreporter.write_line(table.to_string(index=False, formatters={k: v.format for k, v in formats.items()}))
