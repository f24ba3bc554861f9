"""Write constraints.txt: the version of everything that an install brings, as pip would choose it today.

    .venv/bin/python scripts/lock.py

Nothing is installed. What only comes with one build of torch (CUDA libraries) is left out: which build is the user's
choice.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "train,imagenet,mlflow,sam,evaluate,lidc,video,send,dev"
"""All but ``methods``, a distribution of this repository, with its version."""
OF_A_BUILD = re.compile(r"nvidia|cuda|triton")
HEAD = """\
# Versions that are known to work together: pip install -c constraints.txt .
# Written by scripts/lock.py for Python 3.11; do not edit by hand.
"""


def main() -> None:
    """Ask pip, and write down its answer."""
    ask = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"{ROOT}[{EXTRAS}]"]
    answer = subprocess.run([sys.executable, "-m", "pip", *ask], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [(item["metadata"]["name"], item["metadata"]["version"]) for item in json.loads(answer)["install"]]
    lines = [f"{name.lower().replace('_', '-')}=={version.split('+')[0]}\n" for name, version in found]
    kept = sorted(line for line in lines if not line.startswith("nodulens=") and not OF_A_BUILD.search(line))
    (ROOT / "constraints.txt").write_text(HEAD + "".join(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
