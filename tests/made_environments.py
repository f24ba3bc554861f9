"""What stands in for the environments in which nnU-Net and YOLO run: no network is trained, no process started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodulens.errors import NodulensError


@dataclass(frozen=True)
class Pretender:
    """Mixed into an environment: step ``name`` is done by ``_name(work, …)``.

    Attributes:
        off: what a predictor adds to what it says.
        done: the steps so far.
        stopped: steps that fail once.
    """

    off: float = 0.0
    done: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def check(self) -> None:
        pass

    def step(self, work: Path, name: str, *arguments: object) -> None:
        self.done.append(name)
        if name in self.stopped:
            self.stopped.remove(name)
            raise NodulensError("stopped")
        getattr(self, f"_{name}")(work, *arguments)
