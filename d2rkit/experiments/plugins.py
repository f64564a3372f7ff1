"""Your own methods, attacks, networks and data sets, registered by name beside the kit's.

    @d2rkit.register_method("mine", title="Mine", needs_guide=True)
    def mine(logits, y, *, weight=6.0): return Loss(total, parts)

register_* puts them into the plain dicts METHODS, PAIR_ATTACKS, MODELS and DATASETS, where every menu and command
finds them, and notes here from which file they came and a digest of their source. An Experiment that uses them carries
the digests: they are part of its run's name, and a worker process loads the same file before it begins.
"""

from __future__ import annotations

import inspect
import json
import linecache
import logging
import os
import re
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from d2rkit.core.digests import file_digest
from d2rkit.core.faults import one_line
from d2rkit.core.paths import check_path
from d2rkit.core.source_digest import digest_of, digest_of_text
from d2rkit.data.datasets import DATASETS
from d2rkit.experiments.plugin_checks import (
    arrays,
    check_call,
    check_facts,
    check_name,
    guarded,
    network,
    try_attack,
    try_objective,
)
from d2rkit.methods.catalogue import METHODS, PAIR_ATTACKS, Method, PairAttack
from d2rkit.methods.objectives import Loss
from d2rkit.networks.architectures import MODELS, NAMES
from d2rkit.training.guides import guide_of

if TYPE_CHECKING:
    from d2rkit.experiments.experiment import Experiment

log = logging.getLogger("d2rkit")
VARIABLE, GROUP = "D2RKIT_PLUGINS", "d2rkit.plugins"
TABLES: dict[str, dict[str, Any]] = {"method": METHODS, "attack": PAIR_ATTACKS, "network": MODELS, "data set": DATASETS}


@dataclass(frozen=True)
class Registered:
    """digest: of its source. file, file_digest: what to load to have it elsewhere; "" of a notebook's cell."""

    digest: str
    file: str
    file_digest: str


REGISTERED: dict[str, Registered] = {}  # by kind and name, e.g. "method mine"
LOADED: dict[str, str] = {}  # digests of the plugin files that load_plugin has run, by path
FAULTS: list[str] = []  # sentences on plugins of D2RKIT_PLUGINS, and on those that came with an experiment, not loaded


# -- registering -------------------------------------------------------------------------------------------
def register_method(name: str, objective: Callable[..., Loss] | None = None, *, version: str = "", **facts: Any):
    """Register a way to train, to be named like any of METHODS. Without `objective`, a decorator of it.

    name: small letters, digits, hyphens. objective: (Logits, y, *, options...) -> Loss(total, parts), a pure function
    whose parts sum to total. facts: the other fields of Method: title (default: the name), attack, options,
    needs_guide, needs_clean, clean_first, uniform_start, awp, source, guide, needs_guide_clean, needs_guide_adv.
    version: a word in the place of the source's digest, where there is no source to read. Returns the objective.

    ValueError for a name that is taken, an unknown or impossible fact, an objective that fails on a batch of four
    examples of three classes or returns no Loss, or code of which no digest can be made."""
    if objective is None:
        return lambda function: register_method(name, function, version=version, **facts)
    check_name("method", name)
    check_facts(facts)
    method = Method(**{"title": name, **facts, "objective": objective})
    try_objective(name, method)
    told = {key: value for key, value in facts.items() if key not in ("title", "source")}
    told = json.dumps(told | {"options": dict(method.options)}, sort_keys=True, default=str)
    enter("method", name, method, digest_of_text(told + (_digest(objective, version))))
    return objective


def register_attack(
    name: str, make: Callable[..., Tensor] | None = None, *, with_guide: bool = False, version: str = ""
):
    """Register what makes x' in training, for `attack=name` of methods. Without `make`, a decorator of it.

    make: (pair, x, y, *, start, guide_share, eps, step_size, steps) -> x', of x's shape, in [0, 1] and the L-infinity
    ball of eps about x; most are a call of attacks.pgd. start: a random offset from x. with_guide: it looks at the
    pair's guide. version: as for register_method. Returns make. ValueError as there, and for x' outside the ball."""
    if make is None:
        return lambda function: register_attack(name, function, with_guide=with_guide, version=version)
    check_name("attack", name)
    digest = _digest(make, version)
    careful = guarded("attack", name, make)
    try_attack(name, careful)
    enter("attack", name, PairAttack(careful, with_guide), digest)
    return make


def register_model(name: str, builder: Callable[..., nn.Module] | None = None, *, version: str = ""):
    """Register a network, to be named as a target or guide. Without `builder`, a decorator of it (also of a class).

    builder: (num_classes, image_size, channels) -> module that takes pixels in [0, 1], (B, C, H, W), and returns logits
    (B, num_classes). version: as for register_method. Returns builder. ValueError as there."""
    if builder is None:
        return lambda function: register_model(name, function, version=version)
    check_name("network", name)
    if name in NAMES or re.fullmatch(r"(wrn|cnn|mlp|patch-resnet)-\d+(-\d+)?(-silu)?", name):
        raise ValueError(f"the network {name!r} is the kit's own; choose another name")
    check_call("network", name, builder, 10, 32, 3)
    digest = _digest(builder, version)
    enter("network", name, guarded("network", name, builder, network), digest)
    return builder


def register_dataset(name: str, loader: Callable[..., tuple] | None = None, *, version: str = ""):
    """Register a data set. Without `loader`, a decorator of it.

    loader: (folder of data sets) -> (train, test, class names, a sentence on the source); train and test are Splits of
    uint8 images (N, C, H, H) and int64 labels. Validation images are held out of train by the kit. version: as for
    register_method. Returns loader. ValueError as there; what load_data finds wrong with the images, it says itself."""
    if loader is None:
        return lambda function: register_dataset(name, function, version=version)
    check_name("data set", name)
    check_call("data set", name, loader, Path())
    digest = _digest(loader, version)
    enter("data set", name, guarded("data set", name, loader, arrays), digest)
    return loader


def enter(kind: str, name: str, thing: Any, digest: str, file: str = "") -> None:
    """Into the table, with the file that it comes from (default: the one that the call of register_* stands in).
    ValueError if the name is taken by the kit or by another file."""
    file = file or _caller().f_code.co_filename
    key, file = f"{kind} {name}", os.path.abspath(file) if os.path.isfile(file) else ""
    before = REGISTERED.get(key)
    if name in TABLES[kind] and before is None:
        raise ValueError(f"the {kind} {name!r} is the kit's own; choose another name")
    if before and before.file != file:
        raise ValueError(f"the {kind} {name!r} is taken by {before.file or 'a notebook'}; choose another name")
    TABLES[kind][name] = thing
    REGISTERED[key] = Registered(digest, file, file_digest(Path(file)) if file else "")


def _caller() -> FrameType:
    """Where register_* was called."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename in (__file__, *REGISTERING):
        frame = frame.f_back
    assert frame is not None, "this module does not register by itself"
    return frame


def _digest(thing: Any, version: str) -> str:
    if version:
        return digest_of_text(f"version {version}")
    return digest_of(thing, str(_caller().f_globals.get("__name__")).split(".")[0])


REGISTERING: list[str] = []  # files of the kit, besides this one, that call enter for others


# -- files -------------------------------------------------------------------------------------------------
def load_plugin(path: str | Path) -> None:
    """Run a file that registers something. Again only if the file has changed, and then in the place of what it was.

    ValueError, in one sentence, if there is no such file or it raises; nothing of it is registered then."""
    file = check_path(Path(path).expanduser()).absolute()
    if not file.is_file():
        raise ValueError(f"the plugin {path} does not exist or is not a file")
    digest = file_digest(file)
    if LOADED.get(str(file)) == digest:
        return
    linecache.cache.pop(str(file), None)
    module = ModuleType(f"d2rkit_plugin_{digest_of_text(str(file))}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where inspect looks for the source of a class
    sys.path.insert(0, str(file.parent))  # its neighbours can be imported, as if it were run by itself
    try:
        with _all_or_nothing():
            LOADED[str(file)] = digest  # a preset's command names the file that it is registered by
            for key in [key for key, entry in REGISTERED.items() if entry.file == str(file)]:
                del REGISTERED[key], TABLES[key.rsplit(" ", 1)[0]][key.rsplit(" ", 1)[1]]
            with tokenize.open(file) as text:
                code = compile(text.read(), str(file), "exec")  # not imported: bytecode kept from before may be stale
            exec(code, vars(module))
    except (Exception, SystemExit) as error:
        raise ValueError(f"the plugin {path}{_line(error, str(file))}: {_words(error)}") from error
    finally:
        with suppress(ValueError):  # the file may have done so
            sys.path.remove(str(file.parent))


def load_installed() -> None:
    """What packages offer in the entry point group d2rkit.plugins, and the files that D2RKIT_PLUGINS names. What cannot
    be loaded is said in the log, so that `import d2rkit` never fails; files of D2RKIT_PLUGINS also in FAULTS."""
    for point in entry_points(group=GROUP):
        try:
            with _all_or_nothing():
                plugin = point.load()
                if not isinstance(plugin, ModuleType) and callable(plugin):
                    plugin()
        except (Exception, SystemExit) as error:
            log.warning("d2rkit: the plugin %s is left out: %s", point.value, _words(error))
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        try:
            load_plugin(path)
        except ValueError as error:
            FAULTS.append(str(error))
            log.warning("d2rkit: %s (of $%s)", error, VARIABLE)


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    kept: list[tuple[dict[str, Any], dict[str, Any]]]
    kept = [(table, dict(table)) for table in (REGISTERED, LOADED, *TABLES.values())]
    try:
        yield
    except BaseException:
        for table, before in kept:
            table.clear()
            table.update(before)
        raise


def _line(error: BaseException, file: str) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _words(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else one_line(error)
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


# -- experiments and their workers -------------------------------------------------------------------------
def noted(experiment: Experiment) -> dict[str, str]:
    """The digests that an experiment was given, as far as they are of what it uses, and those of what else it uses.
    Those given stay as they are: an old run is of the source that it was made with."""
    given, names = experiment.registered, (experiment.method, experiment.target, experiment.data, experiment.guide)
    if not all(isinstance(name, str) for name in names):  # check() will say so
        return dict(given)
    kinds = zip(("method", "network", "data set", "network"), names, strict=True)
    method, *others, guide = (f"{kind} {name}" for kind, name in kinds)
    used = {method, *others}
    kept = {k: v for k, v in given.items() if k in used | {guide} or (str(k)[:7] == "attack " and method in given)}
    same = method in REGISTERED and kept.get(method, REGISTERED[method].digest) == REGISTERED[method].digest
    if same:
        used.add(f"attack {METHODS[experiment.method].attack}")
    if same or method not in kept:  # else its guide may be another one
        used |= {guide} if guide_of(experiment) == experiment.guide else set()
    return dict(sorted(({k: REGISTERED[k].digest for k in used & REGISTERED.keys()} | kept).items()))


def check_registered(noted: Mapping[str, str]) -> None:
    """ValueError unless what an experiment notes is registered here, and with the same source."""
    for key, digest in noted.items():
        here = REGISTERED.get(key)
        if here is None:
            reason = f": {FAULTS[0]}" if FAULTS else "; load it with --plugin FILE, or d2rkit.load_plugin(FILE)"
            raise ValueError(f"the {key} comes from a plugin that is not loaded here{reason}")
        if here.digest != digest:
            words = f"the {key} has another source here ({here.digest}) than in the run that is asked for ({digest})"
            raise ValueError(f"{words}: make the experiment anew, or load the plugin as it was")


def travelling(noted: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Path and digest of the file of each, for a worker process; ValueError for what lies in no file."""
    here = {key: REGISTERED[key] for key in noted if key in REGISTERED}
    for key, entry in here.items():
        if not entry.file:
            raise ValueError(
                f"the {key} was registered in a notebook, whose functions no other process can read: put `%%writefile "
                "mine.py` above its cell, run d2rkit.load_plugin('mine.py') in the next one, or do without workers"
            )
    return {key: (entry.file, entry.file_digest) for key, entry in here.items()}


def arrived(kind: type, settings: Mapping[str, Any], files: Mapping[str, tuple[str, str]]) -> Any:
    """An experiment, unpickled in a process that may not know its plugins yet. A fault is for its check() to tell."""
    for key, (file, digest) in files.items():
        if key in REGISTERED and REGISTERED[key].digest == settings["registered"].get(key):
            continue
        try:
            if file_digest(Path(file)) != digest:
                raise ValueError(f"{file} has changed since this run was asked for: ask for it again")
            load_plugin(file)
        except (ValueError, OSError) as error:
            FAULTS[:] = [str(error)]
    return kind(**settings)


def command_words() -> list[str]:
    """The options of a command that load the same files: those of load_plugin, but not those of D2RKIT_PLUGINS."""
    by_itself = {os.path.abspath(os.path.expanduser(p)) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p}
    return [word for file in LOADED if file not in by_itself for word in ("--plugin", os.path.relpath(file))]
