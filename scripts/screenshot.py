"""The picture of a report in the README: what a browser shows of it first.

nodulens analyze ../shared/data/ct/LIDC-IDRI-0003 -o out
python scripts/screenshot.py out/report.html docs/report.png
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000")


def main(
    report: Annotated[Path, typer.Argument(help="A report.html.")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    width: int = 1280,
    height: int = 1120,
) -> None:
    """Open the report in a browser without a window and keep what it shows."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise typer.BadParameter(f"No browser on the path: install one of {', '.join(BROWSERS)}.")
    with tempfile.TemporaryDirectory() as folder:
        size = (f"--window-size={width},{height}", f"--user-data-dir={folder}")
        shot = f"--screenshot={picture.resolve()}"
        subprocess.run([browser, *FLAGS, *size, shot, report.resolve().as_uri()], check=True, capture_output=True)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
