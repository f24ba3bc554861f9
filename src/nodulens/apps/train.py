"""How ``nodulens train`` starts: with a recipe, by a file of options, or where a finished run ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nodulens.errors import BadOption

if TYPE_CHECKING:
    from nodulens.methods.run_record import Run
    from nodulens.train.config_file import Configured
    from nodulens.train.options import TrainOptions


@dataclass(frozen=True)
class Start:
    """What was typed of RECIPE, --config, --extend and --set.

    Raises:
        BadOption: none or several of RECIPE, --config and --extend.
    """

    recipe: str | None
    config: Path | None
    extend: int | None
    settings: tuple[str, ...]

    def __post_init__(self) -> None:
        ways = {"RECIPE": self.recipe, "--config": self.config, "--extend": self.extend}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise BadOption(
                f"{' and '.join(given)} exclude one another: name one."
                if given
                else "Name a recipe (nodulens recipes lists them), or a file of options by --config; a finished run in "
                "-o goes on by --extend EPOCHS."
            )

    def trainings(self, output: Path, options: TrainOptions, each: bool) -> dict[Path, TrainOptions]:
        """The folder and the options of every run.

        Args:
            each: a run for every fold of the split that is typed or in the file, or of the fixed five.

        Raises:
            BadOption: ``each`` with other test patients, or to extend; see :func:`nodulens.train.options.every_fold`.
        """
        from nodulens.train.config_file import read_config
        from nodulens.train.options import every_fold

        if not each:
            return {output: options}
        if self.extend is not None:
            raise BadOption("--every-fold trains new runs: extend each of them by itself, without it.")
        own = read_config(self.config).options.split if self.config is not None else None
        return every_fold(output, replace(options, split=options.split or own))

    def configured(self, options: TrainOptions) -> Configured:
        """What is trained by RECIPE or --config.

        Raises:
            BadOption: see :func:`nodulens.train.config_file.read_config`.
        """
        from nodulens.train.config_file import Configured, read_config

        if self.config is not None:
            return read_config(self.config).with_typed(self.settings, options)
        assert self.recipe is not None
        return Configured(self.recipe, self.settings, options)


def check_every_fold(start: Start, data: Path, trainings: dict[Path, TrainOptions]) -> None:
    """Check the trainings of ``--every-fold`` before the first begins, which may take days.

    Raises:
        BadOption: see :func:`nodulens.train.check_every_fold`.
    """
    from nodulens.train import check_every_fold as check

    found = {place: start.configured(options) for place, options in trainings.items()}
    one = next(iter(found.values()))
    check(one.recipe, data, {place: own.options for place, own in found.items()}, one.settings)


def run_training(start: Start, data: Path, output: Path, options: TrainOptions) -> Run:
    """Train, or extend, the run in ``output``.

    Raises:
        BadOption: settings for an extension; or see :func:`nodulens.train.train` and :func:`nodulens.train.extend`.
    """
    from nodulens.train import extend, train

    if start.extend is not None:
        if start.settings:
            raise BadOption("A run is extended with its own settings: leave out --set.")
        return extend(data, output, start.extend, options=options)
    found = start.configured(options)
    return train(found.recipe, data, output, settings=found.settings, options=found.options)
