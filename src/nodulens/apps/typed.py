"""The command that was typed, as runs, cards and pages keep it."""

from __future__ import annotations

import shlex
import sys


def typed_command() -> str:
    """The command as it can be typed again, wherever the program lies."""
    return shlex.join(["nodulens", *sys.argv[1:]])
