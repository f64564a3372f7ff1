"""fit(): the training loop around step.py: schedule, validation, checkpoints, exact resume."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from d2rkit.acceleration.attack_copies import AttackCopies
from d2rkit.acceleration.memory_format import restore, set_memory_format
from d2rkit.core import devices
from d2rkit.data.arrays import splits_digest
from d2rkit.data.datasets import ImageData, augment
from d2rkit.methods.catalogue import Method
from d2rkit.methods.pair import GuidedPair, eval_mode
from d2rkit.networks.checkpoints import load_resume, save_resume, save_weights
from d2rkit.training.averaging import follow
from d2rkit.training.fabric import check_compiler
from d2rkit.training.fabric import make_fabric as _fabric
from d2rkit.training.guides import Beside, check_pair, warm_up_images
from d2rkit.training.history import write_history
from d2rkit.training.recipe import Recipe, generator_for, learning_rate
from d2rkit.training.step import NonFinite, TrainState, guide_step, training_step
from d2rkit.training.stopping import polite_stop
from d2rkit.training.validating import validation_hits

log = logging.getLogger("d2rkit")

Report = Callable[[float, str], None]  # fraction done in [0, 1], a few words


@dataclass
class Fit:
    """Outcome of fit(). status: "done", "interrupted", "stuck at chance", or "failed: ..." with the reason."""

    status: str
    history: list[dict[str, float]]
    seconds: float = 0.0


def fit(
    pair: GuidedPair,
    data: ImageData,
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    report: Report | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    save_every: float = 600.0,
) -> Fit:
    """Train `pair` in place on data.train; return what happened, one row of history per epoch.

    recipe: may be an Experiment, whose data, networks and evaluation are not looked at. Inside a group of processes
    (processes.launch) each calls this alike, works on its part of every batch, and ends with the same weights. device:
    as devices.resolve() knows them. folder: a run folder. It gets history.csv, last.safetensors, best.safetensors
    (highest PGD accuracy on data.val) and resume.pt, from which a later call with the same recipe resumes, bit for bit
    on the same hardware; on another kind or number of devices with fresh randomness, and the history says so (moved 1
    in that epoch's row). should_stop: asked after every step; True, Ctrl-C or SIGTERM saves the state and returns with
    status "interrupted". save_every: seconds between saves within an epoch. A non-finite loss ends training with status
    "failed: ..." and leaves the last good state in place. ValueError for a recipe or device that is impossible
    or data without training or validation images."""
    method = recipe.check()
    check_pair(pair, method)
    for name, split in (("training", data.train), ("validation", data.val)):
        if not len(split):
            raise ValueError(f"the data have no {name} images, which fit() needs")
    began = time.monotonic()
    try:
        loop = _Loop(pair, data, recipe, method, Path(folder) if folder else None, device)
        try:
            with polite_stop() as asked, devices.training_math(recipe.speed == "exact", loop.fabric.device):
                stopped = loop.run(
                    lambda: asked.is_set() or bool(should_stop and should_stop()), report, on_epoch, save_every
                )
            status = "interrupted" if stopped else "stuck at chance" if loop.stuck() else "done"
        except NonFinite as error:
            status = f"failed: {error} in epoch {loop.epoch + 1}, step {loop.step + 1}"
            log.warning("%s; the last good state is kept", status)
            loop.restore()
    finally:
        if recipe.speed == "fast":
            restore(pair)
    return Fit(status, loop.history, time.monotonic() - began)


STATE = ("pair", "optimizer", "average", "generators", "epoch", "step", "best", "sums", "seconds", "history", "recipe")


class _Loop:
    """The state of a training run: what resume.pt holds, and the loop that moves it on."""

    def __init__(self, pair: GuidedPair, data: ImageData, recipe: Recipe, method: Method, folder: Path | None, device):
        self.recipe, self.method, self.folder = recipe, method, folder
        # A network without a gradient of its own: DDP must be told that there may be one.
        alone = not method.needs_guide or method.guide != "trained" or recipe.guide_warmup
        unused = pair.guide is not None and bool(alone or recipe.loss.get("detach_guide"))
        self.fabric = _fabric(device, recipe.precision, unused)
        self.pair = pair
        self.chance = 1 / data.num_classes
        if recipe.speed == "fast":
            set_memory_format(pair.to(self.fabric.device))
        optimizer = torch.optim.SGD(pair.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        self.model, self.optimizer = self.fabric.setup(pair, optimizer)
        device = self.fabric.device
        if recipe.compile:
            check_compiler(device)
        self.train = data.train.to(device)
        self.val = data.val.take(slice(devices.rank(), None, devices.size())).to(device)
        self.val_count = len(data.val)
        self.seen = splits_digest(data.train, data.val) if folder else ""
        self.twin = None
        if recipe.speed == "fast" and method.attack != "none":
            dtype = torch.bfloat16 if recipe.precision == "bf16-mixed" else None
            self.twin = AttackCopies(pair, recipe.compile, method.attacks_with_guide, dtype)
        self.average = AveragedModel(pair.target, use_buffers=True) if recipe.ema else None
        self.beside = Beside(method, pair, data.num_classes, device)
        self.generators = {p: generator_for(p, recipe.seed, device, devices.rank()) for p in ("augment", "attack")}
        self.epoch, self.step, self.best = 0, 0, -1.0
        self.moved = False  # to another kind or number of devices, within this epoch
        self.history: list[dict[str, float]] = []
        self.seconds, self.began = 0.0, time.monotonic()  # of this epoch, over interruptions
        self.sums: dict[str, float] = {}
        self.good: dict | None = None
        if not self.restore():
            self.good = copy.deepcopy(self.state())  # what a failure before the first save goes back to

    @property
    def evaluated(self) -> nn.Module:
        """The target that validation and checkpoints see."""
        return self.pair.target if self.average is None else self.average.module

    def fingerprint(self) -> str:
        """The settings that differ from their defaults: one that is added later leaves old states as good as new.
        Of an Experiment only the Recipe in it counts: the rest changes no weights that data and pair do not show."""
        used = asdict(self.recipe)
        changed = {name: used[name] for name, value in asdict(Recipe()).items() if used[name] != value}
        changed |= getattr(self.recipe, "registered", {})  # nor goes a state on with an edited loss
        return json.dumps(changed, sort_keys=True, default=dict)

    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.recipe.batch_size)

    def run(self, stop: Callable[[], bool], report: Report | None, on_epoch, save_every: float) -> bool:
        """True if it was asked to stop before the end."""
        total = self.recipe.guide_warmup + self.recipe.epochs
        saved = time.monotonic()
        while self.epoch < total:
            for index in self.batches():
                self.advance(index)
                if report:
                    report((self.epoch + self.step / self.steps_per_epoch()) / total, f"epoch {self.epoch + 1}/{total}")
                stopping, due = self.agreed(stop(), time.monotonic() - saved > save_every)
                if stopping or due:
                    self.save()
                if stopping:
                    return True
                if due:
                    saved = time.monotonic()
            self.finish_epoch()
            saved = time.monotonic()
            if on_epoch:
                on_epoch(self.history[-1])
        return False

    def batches(self) -> Iterator[Tensor]:
        """Indices of the batches of this epoch that are still to do; the order follows from seed and epoch."""
        shuffle = generator_for("shuffle", self.recipe.seed + 7_919 * self.epoch)
        order = torch.randperm(len(self.train), generator=shuffle).to(self.fabric.device)
        yield from order.split(self.recipe.batch_size)[self.step :]

    def agreed(self, *wishes: bool) -> list[bool]:
        """What any of the processes wishes, all do: they must save and stop at the same step."""
        if devices.size() == 1:
            return list(wishes)
        return devices.all_reduce(torch.tensor(wishes, device=self.fabric.device), "max").tolist()

    def advance(self, batch: Tensor) -> None:
        recipe, warming = self.recipe, self.epoch < self.recipe.guide_warmup
        index, weight = devices.shard(batch)
        x = augment(self.train.images[index], recipe.padding, recipe.flip, self.generators["augment"]).float() / 255
        y = self.train.labels[index]
        moment = self.epoch - recipe.guide_warmup + self.step / self.steps_per_epoch()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr if warming else learning_rate(recipe, moment + 1 / self.steps_per_epoch() / 2)
        self.pair.train()
        if warming:
            shown = partial(warm_up_images, self.method, recipe, self.pair, self.generators["attack"])
            loss, correct = guide_step(self.step_state(), x, y, weight, shown)
        else:
            state = self.step_state()
            state.attacked = self.twin.refresh(x) if self.twin else None
            state.awp = self.method.awp if self.epoch - recipe.guide_warmup >= recipe.awp_warmup else 0.0
            state.progress = moment / recipe.epochs
            loss, correct = training_step(state, x, y, weight)
            self.beside.follow(round(moment * self.steps_per_epoch()))
            if self.average is not None:
                devices.sync_batchnorm_stats(self.pair.target)
                follow(self.average, self.pair.target, recipe.ema)
        learns = warming or self.method.guide == "trained"  # else the guide's statistics are not to be rounded again
        devices.sync_batchnorm_stats(self.pair if learns else self.pair.target)
        values = {"loss": loss.total, **{f"loss_{k}": v for k, v in loss.parts.items()}}
        share = {f"train_{k}": weight / len(x) for k in correct}
        values |= {f"train_{k}": v for k, v in correct.items()}
        # The step's one look at the device. Shares are made here, in the float64 of Python.
        means = devices.all_reduce(torch.stack([value.float() for value in values.values()]), "mean").tolist()
        if not math.isfinite(sum(means)):
            raise NonFinite("the loss is not finite")
        for name, mean in zip(values, means, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + mean * share.get(name, 1.0) * len(batch)
        self.step += 1

    def step_state(self) -> TrainState:
        return TrainState(
            self.fabric, self.model, self.pair, self.optimizer, self.method, self.recipe, self.generators["attack"],
            beside=self.beside,
        )  # fmt: skip

    def finish_epoch(self) -> None:
        self.check_finite()
        row = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {name: value / len(self.train) for name, value in self.sums.items()}
        row |= {f"val_{k}": v for k, v in self.validate().items()}
        row |= {"moved": 1} if self.moved else {}
        row["seconds"] = self.seconds + time.monotonic() - self.began
        self.seconds, self.began = 0.0, time.monotonic()
        self.beside.finish_epoch()
        self.history.append(row)
        self.epoch, self.step, self.sums, self.moved = self.epoch + 1, 0, {}, False
        better = row["val_pgd"] > self.best and self.epoch > self.recipe.guide_warmup
        self.best = max(self.best, row["val_pgd"]) if better else self.best
        self.save(better)

    def validate(self) -> dict[str, float]:
        """Accuracies on the validation images, of which each process has its part."""
        with eval_mode(self.evaluated, self.pair):
            hits = validation_hits(self.recipe, self.evaluated, self.pair.guide, self.val)
        counts = devices.all_reduce(torch.tensor(list(hits.values()), device=self.fabric.device), "sum").tolist()
        return {name: count / self.val_count for name, count in zip(hits, counts, strict=True)}

    def stuck(self) -> bool:
        """Whether the target never got clearly above chance on the validation images."""
        clear = min(1.5 * self.chance, self.chance + 0.05)  # of two classes, 75 % is no chance
        stuck = bool(self.history) and max(row["val_clean"] for row in self.history) < clear
        if stuck:
            log.warning("stuck at chance: try a lower lr, more warm-up, or smaller loss weights")
        return stuck

    def check_finite(self) -> None:
        finite = torch.stack([torch.isfinite(v).all() for v in self.pair.state_dict().values()]).all()
        if not devices.all_reduce(finite, "min"):
            raise NonFinite("a weight is not finite")

    def state(self) -> dict:
        return {
            "pair": self.pair.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "generators": devices.all_gather({name: g.get_state() for name, g in self.generators.items()}),
            "device": self.fabric.device.type,
            "moved": self.moved,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "sums": self.sums,
            "seconds": self.seconds + (time.monotonic() - self.began if self.step else 0.0),
            "history": self.history,
            "recipe": self.fingerprint(),
            "data": self.seen,
            "beside": self.beside.state(),
        }

    def save(self, better: bool = False) -> None:
        """Write the state; within an epoch only resume.pt changes."""
        self.check_finite()
        state = self.state()
        if self.folder is None:
            self.good = copy.deepcopy(state)
        elif devices.rank() == 0:
            self.write(self.folder, state, better)
        self.fabric.barrier()

    def write(self, folder: Path, state: dict, better: bool) -> None:
        if self.step == 0:
            write_history(folder / "history.csv", self.history)
            for name in ("last", "best") if better else ("last",):
                save_weights(folder / f"{name}.safetensors", self.evaluated, self.pair.guide)
        save_resume(folder / "resume.pt", state)

    def restore(self) -> bool:
        """Go on from the last saved state; False if there is none."""
        file = self.folder / "resume.pt" if self.folder else None
        state = load_resume(file, STATE) if file and file.exists() else self.good
        if state is None:
            return False
        # A state of an older version does not say what its data were.
        for name, mine in (("recipe", self.fingerprint()), ("data", self.seen)):
            if state.get(name, mine) != mine:
                raise ValueError(f"{file} belongs to another {name}; choose another folder")
        try:
            self.pair.load_state_dict(state["pair"])
        except RuntimeError as error:
            raise ValueError(f"{file} belongs to other networks; choose another folder") from error
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.beside.load(state.get("beside", {}))
        states, rank = state["generators"], devices.rank()
        alike = len(states[0]["attack"]) == len(self.generators["attack"].get_state())  # all that older states tell
        kind = state.get("device", self.fabric.device.type if alike else "")
        self.moved = bool(state.get("moved", False))
        if len(states) == devices.size() and kind == self.fabric.device.type:
            for name, generator in self.generators.items():
                generator.set_state(states[rank][name])
        else:  # saved by another kind or number of devices, whose randomness cannot be gone on with
            self.moved = True
            again = self.recipe.seed + 7_919 * (1 + state["epoch"])
            for name in self.generators:
                self.generators[name] = generator_for(name, again, self.fabric.device, rank)
        for name in ("epoch", "step", "best", "sums", "seconds", "history"):
            setattr(self, name, state[name])
        self.began = time.monotonic()
        return True
