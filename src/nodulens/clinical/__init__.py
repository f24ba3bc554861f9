"""Clinical guidelines and risk models: pure functions of published tables, one module a source.

A module is named after its source and edition. Rule sets are kept apart: none takes a threshold of another, but for
the models that a guideline itself asks for (:mod:`~nodulens.clinical.bts_2015`).
"""
