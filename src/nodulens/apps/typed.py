"""The command that was typed: as runs, cards and pages keep it, and a group whose name need not be followed by one."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperGroup

from nodulens.core.text import without_places

MLFLOW = "--mlflow"
LAUNCHED = ("-m", "nodulens")


def typed_command() -> str:
    """The command line, without the path of the program; for distributed training with the number of processes.

    Paths are reduced by :func:`nodulens.core.text.without_places`, which removes names of users and machines; the place
    of MLflow, which may hold a password, is left out.
    """
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")  # as PyTorch's launcher says
    program = ["nodulens"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, *LAUNCHED]
    return shlex.join([*program, *map(without_places, _without_mlflow(sys.argv[1:]))])


def _without_mlflow(words: Sequence[str]) -> Iterator[str]:
    before = ""
    for word in words:
        if before != MLFLOW and word != MLFLOW and not word.startswith(f"{MLFLOW}="):
            yield word
        before = word


def group_or(command: str) -> type[TyperGroup]:
    """A group of commands in which a first word that is none of them is an argument of one, which may be hidden."""

    class Group(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """As everywhere, but ``GROUP WORD …`` is ``GROUP command WORD …``."""
            known = args[0] in self.commands or args[0].startswith("-")
            return super().resolve_command(ctx, args if known else [command, *args])

    return Group
