"""A training's options from a file: the ``run.json`` of a run, or YAML with the options of ``nodulens train``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodulens.data.splits import read_split
from nodulens.errors import BadOption, MissingExtra, NotFound, UnreadableFile
from nodulens.methods.recipe import Recipe
from nodulens.methods.run_record import SPLIT, read_record
from nodulens.train.options import TrainOptions

KEYS = ("recipe", "set", "split", "fold", "everybody", "epochs", "threads")
"""Keys of a YAML file: the options of ``nodulens train`` by their names."""
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "split": (lambda v: isinstance(v, str), "a path"),
    "fold": (lambda v: type(v) is int and v >= 0, "a whole number from 0 up"),
    "everybody": (lambda v: isinstance(v, bool), "true or false"),
    "epochs": (lambda v: type(v) is int and v >= 1, "a whole number from 1 up"),
    "threads": (lambda v: type(v) is int and v >= 1, "a whole number from 1 up"),
}
LARGEST = 2**20
"""Bytes of a file; none needs as many."""


@dataclass(frozen=True)
class Configured:
    """What a file says of a training.

    Attributes:
        recipe: its name, or the recipe of a run.
        settings: as ``--set`` takes them.
        options: split, fold, everybody, epochs, threads.
    """

    recipe: str | Recipe
    settings: tuple[str, ...]
    options: TrainOptions

    def with_typed(self, settings: Sequence[str], given: TrainOptions) -> Configured:
        """The file's values, and in their place those that are typed: epochs of every network replace those that the
        file sets of one."""
        own = (one for one in self.settings if given.epochs is None or not one.partition("=")[0].endswith(".epochs"))
        return Configured(self.recipe, (*own, *settings), self.with_options(given))

    def with_options(self, given: TrainOptions) -> TrainOptions:
        """The file's options, and in their place those that are given. Test patients that are given in one way
        (``split``, ``fold``, ``everybody``) replace those that the file names in another."""
        own = self.options
        if given.everybody or given.split is not None:
            own = replace(own, split=None, fold=None)
        if given.fold is not None or given.split is not None:
            own = replace(own, everybody=False)
        return replace(
            given,
            split=given.split or own.split,
            fold=own.fold if given.fold is None else given.fold,
            everybody=given.everybody or own.everybody,
            epochs=given.epochs or own.epochs,
            threads=given.threads or own.threads,
        )


def read_config(path: Path) -> Configured:
    """Read a file: JSON is the record of a run, all else YAML.

    A warning says where a run was extended: its settings are of one training of all epochs. A path in YAML is relative
    to the file. ``set`` is a list of ``name=value``, or a mapping, which may be nested by
    the parts of a name.

    Raises:
        NotFound: there is no such file, or a run's split is not beside its record.
        UnreadableFile: neither YAML nor the record of a run.
        BadOption: a key that is not known or there twice, a value of another type, or no recipe.
        MissingExtra: PyYAML is not installed.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}; --config takes the run.json of a run, or YAML.")
    return _of_run(path) if path.suffix.lower() == ".json" else _of_yaml(path)


def _of_run(path: Path) -> Configured:
    run = read_record(path)
    if not run.recipe.networks:
        raise BadOption(
            f"{path} is of the networks that ship, whose settings it does not hold; type its command: {run.command}"
        )
    if run.extended:
        warnings.warn(
            f"{path} is of a run that was extended: it is trained as long from the start, at other rates, to other "
            "weights.",
            stacklevel=2,
        )
    split = path.parent / SPLIT
    if not split.exists():
        raise NotFound(f"{path} names its test patients by {SPLIT}, which is not beside it: copy that, too.")
    if not read_split(split).names_all:
        return Configured(run.recipe, (), TrainOptions(fold=run.fold, everybody=run.fold is None))
    return Configured(run.recipe, (), TrainOptions(split=split, fold=run.fold))


def _of_yaml(path: Path) -> Configured:
    found = _loaded(path)
    if not isinstance(found, dict):
        raise BadOption(f"{path} is a mapping of {', '.join(KEYS)}; it holds {type(found).__name__}.")
    unknown = [str(key) for key in found if key not in KEYS]
    if unknown:
        raise BadOption(f"{path} has {', '.join(unknown)}; its keys are {', '.join(KEYS)}.")
    if not isinstance(found.get("recipe"), str):
        raise BadOption(f"{path} names no recipe: recipe: conv3-classifier; see nodulens recipes.")
    values: dict[str, Any] = {}
    for key, (fits, words) in KINDS.items():
        value = values[key] = found.get(key)
        if value is not None and not fits(value):
            raise BadOption(f"{path}: {key} is {words}, got {value!r}.")
    values["everybody"] = bool(values["everybody"])
    if values["split"] is not None:
        values["split"] = path.parent / values["split"]
    return Configured(found["recipe"], tuple(_settings(found.get("set"), path)), TrainOptions(**values))


def _settings(value: Any, path: Path, before: str = "") -> Iterator[str]:
    """``name=value`` of a list or a nested mapping."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = f"{before}{key}"
            if isinstance(inner, dict):
                yield from _settings(inner, path, f"{name}.")
            else:
                yield f"{name}={_text(inner)}"
    elif isinstance(value, list) and not before:
        for setting in map(str, value):
            name, equals, text = setting.partition("=")
            yield f"{name.strip()}{equals}{text}"
    elif value is not None:
        raise BadOption(f"{path}: set is a list of name=value or a mapping, got {value!r}.")


def _text(value: Any) -> str:
    """A value of YAML as ``--set`` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _loaded(path: Path) -> Any:
    """The content of a YAML file; a key that is there twice is refused, of which YAML's own loader takes the last."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("train", "PyYAML") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise BadOption(f"{path} has {', '.join(twice)} twice.")
            return dict(super().construct_mapping(node, deep))

    if path.stat().st_size > LARGEST:
        raise UnreadableFile(f"{path} is larger than any options of a training.")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{path} is no YAML: {error}") from error
