"""One training step of D2R+CAG: ours against the schedule as released, alternated in one process.

    python benchmarks/step.py                          # table, all cases
    python benchmarks/step.py --cases digits-cnn       # one of them
    python benchmarks/step.py --to step.json           # the same for docs/refresh.py

`as released` below is written as plainly as possible: the guide is forwarded again in each attack step, tensors are
contiguous float32, parameters keep requiring gradients, nothing is folded, ReLUs of ResNets make new tensors (those of
the released WideResNet work in place, as all of ours do). `exact` is our step in float32 with a recipe's speed="fast"
(guide forwarded once, networks frozen in the attack and BatchNorm folded into convolutions, channels_last but for the
widest convolutions): the same perturbations up to the rounding of kernels. `fast` is the same under bfloat16. The
levers are measured alone, each on the attack of one step against the attack as released (`--levers`). Peak: the rate of
the step's multiply-adds over that of the fastest plain convolution of these shapes or matrix product on this machine.
Ratios are medians over the turns, with their least and greatest.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from benchmarks.timing import alternated, flops_of, peak_flops, ratio, seconds_of
from d2rkit.acceleration.attack_copies import AttackCopies
from d2rkit.acceleration.memory_format import set_memory_format
from d2rkit.methods import attacks, objectives
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.pair import GuidedPair, eval_mode, frozen
from d2rkit.networks.architectures import PreActResNet18, ResNet18, build_model
from d2rkit.training.fabric import make_fabric
from d2rkit.training.recipe import Recipe
from d2rkit.training.step import TrainState, training_step


@dataclass(frozen=True)
class Case:
    """Networks, image size and batch of one row."""

    name: str
    target: str
    guide: str
    batch: int
    size: int = 32
    channels: int = 3
    steps: int = 10
    eps: float = 8 / 255
    step_size: float = 2 / 255


CASES = {
    case.name: case
    for case in (
        Case("digits-cnn", "cnn-16", "cnn-16", 64, size=8, channels=1, steps=3, eps=0.2, step_size=0.1),
        Case("wrn-small", "wrn-10-2", "wrn-10-1", 128),
        Case("resnet18-preactresnet18", "preactresnet18", "resnet18-guide", 32),
        Case("wrn-34-10", "wrn-34-10", "resnet18-guide", 4),
    )
}


def as_released(pair: GuidedPair, optimizer, case: Case, x: Tensor, y: Tensor) -> None:
    """The released schedule of a D2R+CAG step."""
    pair.eval()
    f, g = as_released_network(pair.target), as_released_network(pair.guide)
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(case.steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            guide = F.softmax(g(x), dim=1)
            loss = (guide * ((guide + 1e-5).log() - F.log_softmax(f(x_adv), dim=1))).sum()
        (gradient,) = torch.autograd.grad(loss, [x_adv])
        x_adv = x_adv.detach() + case.step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - case.eps), x + case.eps).clamp(0, 1)
    pair.train()
    optimizer.zero_grad()
    logits_adv, logits, guide = f(x_adv), f(x), g(x)
    loss = objectives.d2r(objectives.Logits(logits, logits_adv, guide), y, variant="released").total
    loss.backward()
    optimizer.step()


def as_released_network(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Its forward pass, with ReLUs that make new tensors where the released network has those."""
    if not isinstance(network, (ResNet18, PreActResNet18)):
        return network

    def forward(x: Tensor) -> Tensor:
        with mock.patch.object(torch, "relu_", torch.relu):
            return network(x)

    return forward


SGD_KINDS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def optimizers(pair: GuidedPair) -> dict[str, Callable[[], None]]:
    """One update of all weights, by each of torch's three ways."""
    for parameter in pair.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made = {k: torch.optim.SGD(pair.parameters(), 0.01, 0.9, weight_decay=2e-4, **o) for k, o in SGD_KINDS.items()}
    return {f"SGD {kind}": optimizer.step for kind, optimizer in made.items()}


class Ours:
    """Our step, as fit() makes it."""

    def __init__(self, pair: GuidedPair, case: Case, precision: str, folded: bool = True, compiled: bool = False):
        self.fabric = make_fabric("auto", precision)
        self.pair = set_memory_format(pair.to(self.fabric.device))
        optimizer = torch.optim.SGD(pair.parameters(), 0.01, 0.9, weight_decay=2e-4)
        model, optimizer = self.fabric.setup(pair, optimizer)
        recipe = Recipe(
            "d2r-cag-released", eps=case.eps, step_size=case.step_size, steps=case.steps, precision=precision
        )
        low = torch.bfloat16 if precision == "bf16-mixed" else None
        self.twin = AttackCopies(pair, compiled, dtype=low) if folded else None
        generator = torch.Generator(self.fabric.device).manual_seed(0)
        method = METHODS["d2r-cag-released"]
        self.state = TrainState(self.fabric, model, self.pair, optimizer, method, recipe, generator)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.pair.train()
        self.state.attacked = self.twin.refresh(x) if self.twin else None
        training_step(self.state, x, y)


def pair_of(case: Case) -> GuidedPair:
    torch.manual_seed(0)
    return GuidedPair(*(build_model(name, 10, case.size, case.channels) for name in (case.target, case.guide)))


def attack_only(
    pair: GuidedPair,
    case: Case,
    x: Tensor,
    *,
    hoist: bool = False,
    freeze: bool = False,
    in_place: bool = False,
    low: bool = False,
) -> None:
    """The attack alone, as released but for chosen levers: guide forwarded once, parameters frozen, all ReLUs in place,
    bfloat16."""
    f, g = (network if in_place else as_released_network(network) for network in (pair.target, pair.guide))
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=low)
    with eval_mode(pair), frozen(pair) if freeze else contextlib.nullcontext(), autocast:
        fixed = g(x).softmax(1).detach()

        def objective(x_adv: Tensor) -> Tensor:
            soft_labels = fixed if hoist else g(x).softmax(1)
            return F.cross_entropy(f(x_adv), soft_labels, reduction="sum")

        attacks.pgd(
            objective, x, eps=case.eps, step_size=case.step_size, steps=case.steps, start=attacks.gaussian_start(x)
        )


def measure(case: Case, repeats: int, fast_repeats: int, levers: bool, compiled: bool) -> dict:
    """One row: ratios of `exact` and `fast`, the share of the peak, and each lever alone."""
    pair = pair_of(case)
    exact = Ours(pair_of(case), case, "32-true", compiled=compiled)
    fast = Ours(pair_of(case), case, "bf16-mixed", compiled=compiled)
    device = exact.fabric.device
    pair.to(device)
    x = torch.rand(case.batch, case.channels, case.size, case.size, device=device)
    y = torch.randint(10, (case.batch,), device=device)
    optimizer = torch.optim.SGD(pair.parameters(), 0.01, 0.9, weight_decay=2e-4)
    steps = {
        "released": lambda: as_released(pair, optimizer, case, x, y),
        "exact": lambda: exact(x, y),
        "fast": lambda: fast(x, y),
    }
    if levers:
        plain, unfolded = pair_of(case).to(device), Ours(pair_of(case), case, "32-true", folded=False)
        last = pair_of(case).to(device, memory_format=torch.channels_last)
        arranged = set_memory_format(pair_of(case).to(device))
        twin, x_last = AttackCopies(plain).refresh(x), x.to(memory_format=torch.channels_last)
        compiled_twin = AttackCopies(plain, compiled=True).refresh(x)
        steps |= {
            "unfolded step": lambda: unfolded(x, y),
            "attack": lambda: attack_only(plain, case, x),
            "guide hoisted": lambda: attack_only(plain, case, x, hoist=True),
            "frozen": lambda: attack_only(plain, case, x, freeze=True),
            "ReLUs in place": lambda: attack_only(plain, case, x, in_place=True),
            "channels_last": lambda: attack_only(last, case, x_last),
            "channels_last, widest contiguous": lambda: attack_only(arranged, case, x_last),
            "these, frozen, BatchNorm folded": lambda: attack_only(twin, case, x, freeze=True, in_place=True),
            "folded, hoisted": lambda: attack_only(twin, case, x, hoist=True, freeze=True, in_place=True),
            "folded, hoisted, compiled": lambda: attack_only(
                compiled_twin, case, x, hoist=True, freeze=True, in_place=True
            ),
            "bfloat16": lambda: attack_only(plain, case, x, low=True),
        }
        steps |= optimizers(pair_of(case).to(device))
        compile_seconds = seconds_of(steps["folded, hoisted, compiled"]) - seconds_of(
            steps["folded, hoisted, compiled"]
        )
    if not fast_repeats:
        steps = {name: step for name, step in steps.items() if name not in ("fast", "bfloat16")}
    seconds = alternated(steps, repeats, {"fast": fast_repeats, "bfloat16": fast_repeats})
    row = {
        "name": case.name,
        "batch": case.batch,
        "compiled": compiled,
        "turns": repeats,
        "turns_fast": fast_repeats,
        "seconds_released": statistics.median(seconds["released"]),
        "seconds_exact": statistics.median(seconds["exact"]),
        "ratio_exact": ratio(seconds["released"], seconds["exact"])["median"],
        "exact": ratio(seconds["released"], seconds["exact"]),
        "share_of_peak": flops_of(pair, case.steps, x) / statistics.median(seconds["exact"]) / peak_flops(pair, x),
    }
    if fast_repeats:
        row["fast"] = ratio(seconds["released"], seconds["fast"])
        row["ratio_fast"] = row["fast"]["median"]
    if levers:
        alone = [n for n in steps if n not in ("released", "exact", "fast", "attack", "unfolded step")]
        row["levers"] = {n: ratio(seconds["attack"], seconds[n]) for n in alone if not n.startswith("SGD")}
        row["levers"]["whole step without folding"] = ratio(seconds["released"], seconds["unfolded step"])
        row["compile_seconds"] = compile_seconds
        row["sgd"] = {n: statistics.median(seconds[n]) / row["seconds_exact"] for n in alone if n.startswith("SGD")}
    return row


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES], help="which rows")
    parser.add_argument("--repeats", type=int, default=7, help="turns, at least 7 for numbers to cite")
    parser.add_argument("--fast-repeats", type=int, help="turns of bfloat16, slow on older CPUs (default: all)")
    parser.add_argument("--compile", action="store_true", help="ours with compiled attack copies")
    parser.add_argument("--batch", type=int, default=0, help="another batch size")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's)")
    parser.add_argument("--levers", action="store_true", help="each lever alone too")
    chosen = parser.parse_args()
    cache = tempfile.TemporaryDirectory()  # compiling takes as long as the first time
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    rows = []
    for name in chosen.cases:
        case = replace(CASES[name], batch=chosen.batch) if chosen.batch else CASES[name]
        fast_repeats = chosen.repeats if chosen.fast_repeats is None else chosen.fast_repeats
        rows.append(measure(case, chosen.repeats, fast_repeats, chosen.levers, chosen.compile))
        show(rows[-1])
    results.write(chosen.to, cases=rows)


def show(row: dict) -> None:
    def words(r: dict[str, float]) -> str:
        return f"{r['median']:.2f}x ({r['min']:.2f} to {r['max']:.2f})"

    print(
        f"{row['name']:24} batch {row['batch']:3}  as released {row['seconds_released']:.3f} s  "
        f"exact {words(row['exact'])}  fast {words(row['fast']) if 'fast' in row else 'not measured'}  "
        f"{row['share_of_peak']:.0%} of the peak",
        flush=True,
    )
    for name, spread in row.get("levers", {}).items():
        print(f"    {name:42} {words(spread)}", flush=True)
    if "sgd" in row:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in row["sgd"].items())
        print(f"    of a step: {shares}; compiling took {row['compile_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
