"""Learning curves on an MLflow server, by MLflow's own client."""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Any

from nodulens.core.text import without_places
from nodulens.errors import BadOption, MissingExtra
from nodulens.methods.run_record import Run
from nodulens.train.loop.fit import Follow, Row

EXPERIMENT = "nodulens"
MOST = 900
"""Metrics sent at a time; MLflow takes 1,000."""


class Tracker:
    """A run of nodulens as a run of MLflow, in the experiment "nodulens".

    Recipe and fold are its parameters, commit, software and hardware its tags, and the curves its metrics: one of each
    column for each network, such as ``segmenter/validation_dice``, by epoch.

    Attributes:
        run_id: MLflow's.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._logged: dict[str, int] = {}

    @classmethod
    @contextmanager
    def opened(cls, client: Any, run: Run) -> Iterator[Tracker]:
        """The MLflow run of a run of nodulens until the block ends: the one that its record names, or a new one.

        Args:
            client: by :func:`connect`.

        Raises:
            BadOption: the server does not answer.
        """
        exception = _exception()
        try:
            tracker = cls(client, _known(client, run, exception) or _new(client, run))
            client.update_run(tracker.run_id, status="RUNNING")
            for key, value in _tags(run).items():
                client.set_tag(tracker.run_id, key, value)
        except exception as error:
            raise BadOption(_words("MLflow cannot be used there", error)) from error
        status = "FAILED"
        try:
            yield tracker
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            try:
                client.set_terminated(tracker.run_id, status)
            except exception as error:
                _warn(error)

    def follow(self, part: str) -> Follow:
        """A function that logs the rows of a network that are not logged yet. Where MLflow does not answer, it warns:
        training goes on, and the rows are logged with those of the next epoch."""

        def log(rows: Sequence[Row]) -> None:
            try:
                self._log(part, rows)
            except Exception as error:  # of the client, or of what it stands on
                _warn(error)

        return log

    def _log(self, part: str, rows: Sequence[Row]) -> None:
        if part not in self._logged:
            history = self._client.get_metric_history(self.run_id, f"{part}/loss")
            self._logged[part] = max((one.step for one in history), default=0)
        now = int(1000 * time.time())
        new = [row for row in rows if row["epoch"] > self._logged[part]]
        metrics = [
            _entities().Metric(f"{part}/{name}", value, now, int(row["epoch"]))
            for row in new
            for name, value in row.items()
            if name not in ("epoch", "kept") and not math.isnan(value)
        ]
        for first in range(0, len(metrics), MOST):
            self._client.log_batch(self.run_id, metrics=metrics[first : first + MOST])
        if new:
            self._logged[part] = int(new[-1]["epoch"])


def connect(uri: str) -> Any:
    """MLflow's client for a place.

    Args:
        uri: of a server, or of another place that the client knows.

    Raises:
        MissingExtra: the client is not installed.
        BadOption: there is no such place.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent anywhere else
    try:
        mlflow = import_module("mlflow")
    except ImportError as error:
        raise MissingExtra("mlflow", error.name or "mlflow") from error
    try:
        return mlflow.MlflowClient(tracking_uri=uri)
    except _exception() as error:
        raise BadOption(_words("MLflow cannot be used there", error)) from error


def _entities() -> ModuleType:
    return import_module("mlflow.entities")


def _exception() -> type[Exception]:
    """What MLflow's client raises."""
    raised: type[Exception] = import_module("mlflow.exceptions").MlflowException
    return raised


def _words(what: str, error: Exception) -> str:
    """A message with that of an error, without names and passwords of its addresses."""
    return re.sub(r"//[^/@\s]*@", "//", f"{what}: {error}")


def _known(client: Any, run: Run, exception: type[Exception]) -> str | None:
    """The id of the run that a record names, if the server has it."""
    if run.mlflow is None:
        return None
    try:
        return str(client.get_run(run.mlflow).info.run_id)
    except exception:  # it is on another server
        return None


def _new(client: Any, run: Run) -> str:
    """A new run with its parameters."""
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    made = client.create_run(experiment, run_name=run.recipe.name)
    networks = run.recipe.networks
    values = {name: value for name, value in asdict(run.recipe).items() if name not in networks}
    values |= {f"{part}.{name}": value for part, config in networks.items() for name, value in asdict(config).items()}
    params = [_entities().Param(key, without_places(str(value))) for key, value in {**values, "fold": run.fold}.items()]
    client.log_batch(made.info.run_id, params=params)
    return str(made.info.run_id)


def _tags(run: Run) -> dict[str, str]:
    """What may differ when a run is resumed or extended, for MLflow's tags."""
    hardware = asdict(run.hardware) if run.hardware else {}
    epochs = {f"{name}.epochs": config.epochs for name, config in run.recipe.networks.items()}
    found = {"commit": run.commit, "command": "; ".join(run.commands), **run.software, **hardware, **epochs}
    return {f"nodulens.{key}": str(value) for key, value in found.items() if value is not None}


def _warn(error: Exception) -> None:
    warnings.warn(_words("MLflow did not take the curves, training goes on", error), stacklevel=3)
