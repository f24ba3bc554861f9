"""The crops that networks learn from, under the name that they had."""

from nodulens.data.crops import UNIT_PER_STEP, Background, Cubes, Patches, Stacks, reader_share

__all__ = ["UNIT_PER_STEP", "Background", "Cubes", "Patches", "Stacks", "reader_share"]
