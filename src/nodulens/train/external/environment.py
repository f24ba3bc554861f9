"""Virtual environments of external frameworks, nnU-Net and YOLO, which are never imported here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from nodulens.errors import NodulensError, NotFound

WORDS = 1500
"""Characters of a failed program's output to quote in the error."""


@dataclass(frozen=True)
class Environment:
    """The virtual environment of an external framework.

    Attributes:
        folder: of the environment.
        threads: CPU threads and processes that it may use.
        TITLE: name of the framework in messages.
        NAME: name of our command for it, and of its folder in a run.
        REQUIREMENT: what pip installs.
        SIGN: a program that shows that the framework is installed.
        INSIDE: our script that runs inside.
    """

    folder: Path
    threads: int = 1

    TITLE: ClassVar[str]
    NAME: ClassVar[str]
    REQUIREMENT: ClassVar[str]
    SIGN: ClassVar[str]
    INSIDE: ClassVar[str]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of all its programs."""
        return {"OMP_NUM_THREADS": str(self.threads)}

    def places(self, work: Path) -> dict[str, str]:
        """Environment variables that name its working folders."""
        return {}

    def program(self, name: str) -> Path:
        """The path of one of its programs."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / name

    def set_up(self) -> None:
        """Create it: our version of torch, the framework, and no torchvision, which CPU builds of torch cannot load.

        Raises:
            NodulensError: something could not be installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "setup.log"
        pip = [self.program("python"), "-m", "pip"]
        self.call([sys.executable, "-m", "venv", self.folder], log)
        self.call([*pip, "install", f"torch=={version('torch')}", self.REQUIREMENT], log)
        self.call([*pip, "uninstall", "--yes", "torchvision"], log)

    def check(self) -> None:
        """Check that it exists.

        Raises:
            NotFound: the message says how to create it.
        """
        if not self.program(self.SIGN).exists():
            raise NotFound(
                f"{self.folder} holds no {self.TITLE}. Create it: nodulens {self.NAME} setup --env {self.folder}"
            )

    def step(self, work: Path, name: str, *arguments: object) -> None:
        """Run a step of the script inside."""
        # -P: modules beside the script must not shadow the framework's
        command = [self.program("python"), "-P", self.INSIDE, name, *arguments]
        self.call(command, work / "log.txt", self.places(work))

    def call(self, command: Sequence[object], log: Path, more: Mapping[str, str] | None = None) -> None:
        """Run a program, with its output appended to a log.

        Raises:
            NodulensError: it failed; with the end of its output.
        """
        words = [str(part) for part in command]
        own = {**os.environ, **self.variables, **(more or {})}
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(words, env=own, stdout=file, stderr=file, check=False)
        if done.returncode:
            last = log.read_text(encoding="utf-8", errors="replace")[-WORDS:]
            raise NodulensError(f"{' '.join(words[:4])} … failed ({done.returncode}); its output is in {log}:\n{last}")
