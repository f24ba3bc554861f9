"""What a training ran with: the commit of the checkout, versions of packages, hardware. Nothing that identifies a
machine or a person."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from nodulens.core.versions import versions
from nodulens.methods.run_record import Conditions, Hardware

PACKAGES = (
    "nodulens",
    "torch",
    "numpy",
    "scipy",
    "monai",
    "scikit-learn",
    "SimpleITK",
    "onnx",
    "onnxscript",
    "openvino",
)
PACKAGE = Path(__file__).resolve().parents[1]
GIT_S = 10
"""Seconds after which git is given up."""


def conditions() -> Conditions:
    """Those of this process."""
    return Conditions(commit(), software(), hardware())


def software() -> dict[str, str]:
    """Versions of Python and of the installed packages that compute."""
    return versions(PACKAGES)


def commit(package: Path = PACKAGE) -> str | None:
    """The commit of the checkout that holds a package, followed by "-dirty" if its files differ from it.

    None outside a checkout that tracks the package, or without git.
    """
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return None
    found = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{found.strip()}{'-dirty' if changed else ''}" if found else None


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None if it fails."""
    # a hook of git would say by its variables which repository is meant
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def hardware() -> Hardware:
    """The processor, its cores, memory and GPUs."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return Hardware(_processor(), os.cpu_count() or 1, _memory_gb(), ", ".join(gpus) or None)


def _processor() -> str:
    """The name of the processor."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):  # not on Linux
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    """Memory in units of 2³⁰ bytes; None if the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
