"""How early does AutoAttack know its number? The bound after a fifth of the full cost, in several orders.

    python benchmarks/anytime.py                # the networks of `small` (needs CIFAR-10 in the data folder)
    python benchmarks/anytime.py --to data/results/anytime.json    # what docs/refresh.py makes its table from
    python benchmarks/anytime.py --run --images 200 --networks small-trades

Cost is counted in forward passes of images, a backward pass as two, not in seconds; 100 % is an undisturbed standard
AutoAttack of the same network, images and seed. Its flags are those shipped with the networks (500 test images, one
batch an attack) and its cost follows from them (d2rkit/evaluation/autoattack/anytime.py, COST); with --run, all of it
is run here and counted. Previews are run and counted in any case. Each order is a row of calls, each of which says
which images it broke and what it cost; the bound after 20 % is that of the last call that ended within it. Calls of
recorded attacks are taken apart into ones of 10 images, so that they may end anywhere.

    standard        the four attacks, one after the other
    1, 3 targets    previews of APGD-T with one and then three targets: what `evaluate --budget` does
    1 target        a preview with one target alone
    3 targets       a preview with three targets alone
    small margins   the images with the smallest margins first
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.acceleration.attack_copies import attack_copy
from d2rkit.core.files import read_json
from d2rkit.data.datasets import first_of_each_class, load_data
from d2rkit.evaluation.autoattack import (
    FULL,
    STAGES,
    AutoAttackBudget,
    AutoAttackSettings,
    attack_batch,
    correct,
    forked_rng,
)
from d2rkit.evaluation.autoattack.anytime import COST
from d2rkit.experiments.experiment import Experiment, machine
from d2rkit.methods.attacks import margin
from d2rkit.methods.pair import eval_mode, frozen
from d2rkit.networks.loading import load_released

PROJECT = Path(__file__).parents[1]
WITHIN = 0.2  # of the full cost
RECORDED_AT_ONCE = 10  # images
ORDERS = {"standard": (), "1, 3 targets": (1, 3), "1 target": (1,), "3 targets": (3,)}


class Counted(nn.Module):
    """The network, and the forward passes of images it was asked for; a backward pass counts as two."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) * (3 if x.requires_grad else 1)
        return self.network(x)


@dataclass(frozen=True)
class Call:
    """One attack on one batch: its images, those of them it broke, and its cost."""

    stage: str
    tried: Tensor
    broken: Tensor
    cost: float


class Calls:
    """Makes calls of AutoAttack's attacks, each once."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int, budget: AutoAttackBudget):
        self.network, self.x, self.y, self.eps, self.batch_size, self.budget = network, x, y, eps, batch_size, budget
        self.clean = correct(network, x, y, batch_size)
        self.attacked = Counted(attack_copy(network, x[:batch_size]).network)
        self.made: dict[tuple, Call] = {}

    def of(self, stage: str, images: Tensor, targets: int | None = None) -> list[Call]:
        """`stage` on `images`, their numbers in the order in which they make up batches."""
        return [self.one(stage, batch, targets) for batch in images.split(self.batch_size) if len(batch)]

    def one(self, stage: str, batch: Tensor, targets: int | None) -> Call:
        key = (stage, targets, *batch.tolist())
        if key not in self.made:
            budget = AutoAttackBudget(self.budget.iterations, targets or self.budget.targets, self.budget.queries)
            self.attacked.passes = 0
            fooled = attack_batch(
                self.network, self.attacked, stage, self.x[batch], self.y[batch],
                AutoAttackSettings(self.eps, 10, batch_size=self.batch_size, budget=budget),
            )  # fmt: skip
            self.made[key] = Call(stage, batch, batch[fooled], self.attacked.passes)
        return self.made[key]

    def standard(self, order: Tensor | None = None, stages: Sequence[str] = STAGES) -> list[Call]:
        """The attacks one after the other, on what the one before left of the images in `order`."""
        images, calls = order if order is not None else self.clean.nonzero().flatten(), []
        for stage in stages:
            calls += (these := self.of(stage, images))
            images = images[~torch.isin(images, torch.cat([images[:0], *(c.broken for c in these)]))]
        return calls


class Recorded(Calls):
    """Takes the calls of whole attacks from the flags after each, which an undisturbed run left."""

    def __init__(self, *how, after: Mapping[str, Tensor]):
        super().__init__(*how)
        self.after = after
        if not torch.equal(after["clean"], self.clean):
            raise ValueError("the network is right on other images than those of the recorded flags")

    def of(self, stage: str, images: Tensor, targets: int | None = None) -> list[Call]:
        if targets:
            return super().of(stage, images, targets)
        survives, falls = COST[stage]
        calls = []
        for part in images.split(RECORDED_AT_ONCE):
            broken = part[~self.after[stage][part]]
            calls += [Call(stage, part, broken, survives * (len(part) - len(broken)) + falls * len(broken))]
        return calls


def ordered(calls: Calls, full: Sequence[Call]) -> dict[str, list[Call]]:
    """The calls of each order."""
    first = [call for call in full if call.stage == STAGES[0]]
    images = calls.clean.nonzero().flatten()
    left = images[~torch.isin(images, torch.cat([call.broken for call in first]))]
    rest = list(full[len(first) :])
    orders = {
        name: [*first, *(c for targets in previews for c in calls.of("apgd-t", left, targets)), *rest]
        for name, previews in ORDERS.items()
    }
    with torch.no_grad():
        margins = -margin(calls.network(calls.x[images]), calls.y[images])
    orders["small margins"] = calls.standard(images[margins.argsort()], STAGES[:2])
    return orders


def bound(clean: Tensor, row: Sequence[Call], cost: float) -> tuple[float, float]:
    """The share of images that nothing broke, and what that cost, after the last call that ends within `cost`."""
    flags, spent = clean.clone(), 0
    for call in row:
        if spent + call.cost > cost:
            break
        spent += call.cost
        flags[call.broken] = False
    return flags.float().mean().item(), spent


def measured(
    network: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int, budget: AutoAttackBudget = FULL,
    after: Mapping[str, Tensor] | None = None,
) -> dict:  # fmt: skip
    """The full number, and of each order the bound after WITHIN of the full cost. after: the flags of an undisturbed
    run, if there was one. "too_low": images that a preview broke and the full attacks did not, which must be none."""
    with eval_mode(network), frozen(network), forked_rng():
        how = (network, x, y, eps, batch_size, budget)
        calls = Recorded(*how, after=after) if after else Calls(*how)
        full = calls.standard()
        total, number = sum(call.cost for call in full), bound(calls.clean, full, float("inf"))[0]
        rows = ordered(calls, full)
        bounds = {name: bound(calls.clean, row, WITHIN * total) for name, row in rows.items()}
        fallen = torch.cat([call.broken for call in full])
        early = torch.cat([call.broken for name in ORDERS for call in rows[name]])
    return {
        "images": len(x),
        "clean": calls.clean.float().mean().item(),
        "autoattack": number,
        "passes": total,
        "orders": {name: {"bound": b, "share": spent / total} for name, (b, spent) in bounds.items()},
        "too_low": early[~torch.isin(early, fallen)].unique().tolist(),
        "passes_per_image": {
            stage: sum(c.cost for c in full if c.stage == stage)
            / max(1, sum(len(c.tried) for c in full if c.stage == stage))
            for stage in STAGES
        },
    }


def shipped_flags(name: str) -> dict[str, Tensor]:
    """After each attack of the run that made a shipped checkpoint; its flags are shipped, too."""
    with np.load(recorded(name)) as arrays:
        return {stage: torch.from_numpy(arrays[stage]) for stage in ("clean", *STAGES)}


def networks_of_small() -> list[str]:
    """Those in data/checkpoints that AutoAttack was run on; the undefended control is none of them."""
    names = sorted(file.stem for file in (PROJECT / "data" / "checkpoints").glob("small-*.safetensors"))
    return [name for name in names if recorded(name).is_file()]


def recorded(name: str) -> Path:
    run = PROJECT / "data" / "results" / "small" / "runs" / read_config_of(name).run_name
    return run / "evaluation" / "autoattack.npz"


def read_config_of(name: str) -> Experiment:
    return Experiment.from_dict(read_json(PROJECT / "data" / "checkpoints" / f"{name}.json"))


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--networks", nargs="*", default=None, help="of data/checkpoints (default: all of `small`)")
    parser.add_argument("--run", action="store_true", help="run all of AutoAttack, instead of taking shipped flags")
    parser.add_argument("--images", type=int, default=500, help="with --run")
    parser.add_argument("--batch-size", type=int, default=250, help="with --run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", default=None, help="where CIFAR-10 lies")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    try:
        test = load_data("cifar10", chosen.data_root, test_only=True).test
    except ValueError as error:
        sys.exit(str(error))
    count, batch = (chosen.images, chosen.batch_size) if chosen.run else (500, 250)
    test = test.take(first_of_each_class(test.labels, count))
    names, networks = chosen.networks or networks_of_small(), {}
    print(f"{count} test images, bounds within {WITHIN:.0%} of the cost, {machine()}", flush=True)
    for name in names:
        network = load_released(PROJECT / "data" / "checkpoints" / f"{name}.safetensors").model
        after, eps = None if chosen.run else shipped_flags(name), read_config_of(name).eps
        result = measured(network, test.pixels(), test.labels, eps, batch, after=after)
        print(f"{name}: clean {result['clean']:.1%}, AutoAttack {result['autoattack']:.1%}", flush=True)
        for order, row in result["orders"].items():
            print(f"    {order:14} <= {row['bound']:.1%} after {row['share']:.0%} of the cost", flush=True)
        if result["too_low"]:
            print(f"    previews broke images that the full attacks did not: {result['too_low']}")
        networks[name] = result
    results.write(chosen.to, within=WITHIN, networks=networks)


if __name__ == "__main__":
    main()
