"""Evaluation: methods, runs and networks on patients that they were not trained on; files of detections and boxes.

The package can be called: ``nodulens.evaluate(…)`` is :func:`nodulens.evaluate.runs.evaluate`.
"""

from __future__ import annotations

import sys

from nodulens.core.packages import CallablePackage
from nodulens.evaluate.options import EvaluateOptions as EvaluateOptions
from nodulens.evaluate.runs import evaluate as evaluate

sys.modules[__name__].__class__ = CallablePackage
