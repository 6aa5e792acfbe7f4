"""``python -m tests.standins DIR``: write the stand-ins to DIR, for ``BNCAP_MODELS`` (about 10 seconds)."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import build_standins


def main() -> None:
    parser = argparse.ArgumentParser(description="Write tiny random stand-ins for the hub's checkpoints.")
    parser.add_argument("folder", type=Path, help="folder that BNCAP_MODELS will name")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    try:
        made = build_standins(arguments.folder, arguments.seed)
    except OSError as error:
        parser.exit(1, f"error: {error}; name a folder that can be written\n")
    for path in made:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{path.relative_to(arguments.folder).as_posix():45} {size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
