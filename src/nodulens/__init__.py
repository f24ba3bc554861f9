"""Lung nodules in chest CT: found, outlined, measured, graded, explained.

For research; not a medical device.

    >>> import nodulens as nl
    >>> ct = nl.read("scan/")             # doctest: +SKIP
    >>> report = nl.analyze(ct)           # doctest: +SKIP

Names are loaded when they are first used: importing the package costs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("nodulens")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"

_WHERE = {
    "read": "nodulens.io",
    "list_series": "nodulens.io",
    "read_mask": "nodulens.io",
    "read_rois": "nodulens.rois.read",
    "write_mask": "nodulens.io",
    "write_volume": "nodulens.io",
    "analyze": "nodulens.pipeline",
    "segment": "nodulens.pipeline",
    "segment_text": "nodulens.pipeline",
    "load_method": "nodulens.methods.load",
    "train": "nodulens.train",
    "TrainOptions": "nodulens.train.options",
    "evaluate": "nodulens.evaluate",
    "EvaluateOptions": "nodulens.evaluate.options",
    "categorise": "nodulens.report.guidelines",
    "write_outputs": "nodulens.report.outputs",
    "write_dicom": "nodulens.dicom_objects.write",
    "to_json": "nodulens.report.json",
    "from_json": "nodulens.report.json",
    "Report": "nodulens.report.record",
    "Recipe": "nodulens.methods.recipe",
    "Method": "nodulens.methods.method",
    "Volume": "nodulens.core.volume",
    "Mask": "nodulens.core.volume",
    "Geometry": "nodulens.core.geometry",
    "Box": "nodulens.core.nodule",
    "Nodule": "nodulens.core.nodule",
    "NodulensError": "nodulens.errors",
}

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from nodulens.core.geometry import Geometry as Geometry
    from nodulens.core.nodule import Box as Box
    from nodulens.core.nodule import Nodule as Nodule
    from nodulens.core.volume import Mask as Mask
    from nodulens.core.volume import Volume as Volume
    from nodulens.dicom_objects.write import write_dicom as write_dicom
    from nodulens.errors import NodulensError as NodulensError
    from nodulens.evaluate import evaluate as evaluate
    from nodulens.evaluate.options import EvaluateOptions as EvaluateOptions
    from nodulens.io import list_series as list_series
    from nodulens.io import read as read
    from nodulens.io import read_mask as read_mask
    from nodulens.io import write_mask as write_mask
    from nodulens.io import write_volume as write_volume
    from nodulens.methods.load import load_method as load_method
    from nodulens.methods.method import Method as Method
    from nodulens.methods.recipe import Recipe as Recipe
    from nodulens.pipeline import analyze as analyze
    from nodulens.pipeline import segment as segment
    from nodulens.pipeline import segment_text as segment_text
    from nodulens.report.guidelines import categorise as categorise
    from nodulens.report.json import from_json as from_json
    from nodulens.report.json import to_json as to_json
    from nodulens.report.outputs import write_outputs as write_outputs
    from nodulens.report.record import Report as Report
    from nodulens.rois.read import read_rois as read_rois
    from nodulens.train import train as train
    from nodulens.train.options import TrainOptions as TrainOptions


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'nodulens' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
