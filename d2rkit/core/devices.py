"""Devices: which one a name means (resolve), and one run on several, a process for each: share out the work, put the
results together.

    resolve("auto")                           the one door through which every name of a device goes
    shard(index), all_reduce(value, "mean")   inside a group: this process's share, and what all shares come to

Outside a group the functions that share do what one process alone needs: nothing. A group is only what
processes.launch() made, or torchrun where D2RKIT_GROUP=1 says that its variables are meant for this kit; the variables
of a batch system, or of another program's launcher, say nothing about a run. What float32 means on a device:
arithmetic.py.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2rkit.core.arithmetic import attack_math, ieee_float32, training_math
from d2rkit.core.validation import nearest

__all__ = ["attack_math", "ieee_float32", "training_math"]

NAMES = ("auto", "cpu", "cuda", "mps")
GROUP = "D2RKIT_GROUP"  # marks WORLD_SIZE, RANK and LOCAL_RANK as meant for this kit
OPERATIONS = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


def named(device: str | torch.device) -> tuple[str, int | None]:
    """Kind and number that `device` names, here or on another machine: ("cuda", 1) for "cuda:1"; "gpu" is "cuda".
    ValueError, in one sentence, for what is no device of the kit."""
    kind, colon, number = str(device).strip().lower().partition(":")
    kind = "cuda" if kind == "gpu" else kind
    if kind not in NAMES:
        raise nearest(str(device), (*NAMES, "cuda:1"), "device")
    if colon and (not number.isdecimal() or kind == "auto" or (kind != "cuda" and int(number))):
        raise ValueError(f"device {str(device)!r} has no such number; allowed: {', '.join(NAMES)}, or cuda:1 and so on")
    return kind, int(number) if colon else None


def resolve(device: str | torch.device = "auto") -> torch.device:
    """The device that a name means on this machine: "auto" is an NVIDIA (or ROCm) GPU if there is one, else the CPU;
    "cpu"; "cuda" or "gpu", the first GPU or, in a group of processes, this one's own; "cuda:1"; "mps", the GPU of an
    Apple computer, which is used only when asked for. ValueError, in one sentence, for what is unknown or not here."""
    kind, number = named(device)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if there else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device 'mps' is not here: torch finds no Apple GPU; choose auto or cpu")
        return torch.device("mps", 0)
    if not there:
        raise ValueError(f"device {str(device)!r} is not here: torch finds no NVIDIA GPU; choose auto or cpu")
    if number is None:
        number = int(os.environ["LOCAL_RANK"]) if expected() > 1 else 0
    if number >= there:
        raise ValueError(f"device 'cuda:{number}' is not here: this machine has {there} GPU(s), counted from 0")
    return torch.device("cuda", number)


def check_count(count: int, device: str | torch.device, batch_size: int) -> None:
    """ValueError, in one sentence, if `count` devices of this kind cannot share a batch on this machine."""
    if not 1 <= count <= batch_size:
        raise ValueError(f"devices must lie between 1 and the batch size {batch_size}, not {count}")
    kind, number = resolve(device).type, named(device)[1]
    if count == 1:
        return
    check_one_machine()
    if kind == "mps":
        raise ValueError(f"an Apple GPU is one device, not {count}; set devices to 1")
    if kind == "cuda" and number is not None:
        raise ValueError(f"device {str(device)!r} names one GPU, not {count}; choose cuda")
    if kind == "cuda" and count > torch.cuda.device_count():
        raise ValueError(f"this machine has {torch.cuda.device_count()} GPU(s), not {count}")


def check_one_machine() -> None:
    """ValueError if a launcher has spread this job over several machines: a run that is shared stays on one."""
    for name in ("SLURM_NNODES", "GROUP_WORLD_SIZE"):  # of Slurm, of torchrun --nnodes
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1:
            raise ValueError(f"a run shares the devices of one machine, but {name} is {value}; ask for one node")


def card_for(worker: int, device: str | torch.device) -> str | None:
    """What CUDA_VISIBLE_DEVICES should be for the worker of this number, so that workers take GPUs in turn; None where
    there is nothing to choose: no GPU, another kind of device, or a GPU that is named."""
    kind, number = named(device)
    if kind not in ("auto", "cuda") or number is not None or not torch.cuda.is_available():
        return None
    cards = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return cards.split(",")[worker % len(cards.split(","))]


def size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def expected() -> int:
    """How many processes there will be once the group is joined: launch() leaves word of it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if GROUP in os.environ else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def shard(index: Tensor) -> tuple[Tensor, float]:
    """This process's part of a batch's indices, and the weight of its mean loss: the mean over processes of
    weight x (mean loss of the part) is the mean loss of the batch. A batch too small to be parted goes to all."""
    count = size()
    if len(index) < count:
        return index, 1.0
    part = index.tensor_split(count)[rank()]
    return part, len(part) * count / len(index)


def pieces(count: int, limit: int) -> int:
    """Into how many pieces of at most `limit` images (0: no limit) a batch's part of `count` images is cut: as many
    on every device, since each piece ends in talk among all."""
    if not limit:
        return 1
    most, least = -(-count // limit), count
    if size() > 1:
        most = int(all_reduce(torch.tensor(most), "max"))
        least = int(all_reduce(torch.tensor(least), "min"))
    return min(most, least)


def all_reduce(value: Tensor, how: str) -> Tensor:
    """`value` put together over all processes ("sum", "mean", "min", "max"), detached; itself if there is one."""
    if size() == 1:
        return value.detach()
    result = value.detach().to(_place(value.device), torch.uint8 if value.dtype == torch.bool else value.dtype)
    result = result.clone()
    dist.all_reduce(result, OPERATIONS[how])
    return (result / size() if how == "mean" else result).to(value.device, value.dtype)


def absolute(part: Tensor, share: float) -> Tensor:
    """This process's part of |mean over the whole batch|, where `part`, worth `share` of it, is the mean of what this
    process has: its sign is the whole mean's, so that the parts, and their gradients, add up to the absolute value."""
    return part * all_reduce(share * part, "mean").sign()


def all_gather(thing: Any) -> list[Any]:
    """`thing` of every process, by rank; only what pickles."""
    if size() == 1:
        return [thing]
    gathered: list[Any] = [None] * size()
    dist.all_gather_object(gathered, thing)
    return gathered


def barrier() -> None:
    """Until all processes have come this far."""
    if size() > 1:
        dist.barrier()


def broadcast(thing: Any) -> Any:
    """`thing` as the first process has it, so that all decide alike."""
    return all_gather(thing)[0]


@torch.no_grad()
def sync_batchnorm_stats(module: nn.Module) -> None:
    """Average BatchNorm's running statistics over all processes, each of which saw its own part of the batch."""
    if size() == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = all_reduce(torch.cat([buffer.flatten() for buffer in buffers]), "mean")
    for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def _place(device: torch.device) -> torch.device:
    """Where a tensor must lie to be sent: NCCL knows GPUs only."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else device
