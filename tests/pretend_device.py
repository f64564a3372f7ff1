"""A GPU that is not there: CPU tensors whose storages are marked, and the rules that a real device enforces.

    with pretend("mps") as gpu:
        network.to(gpu.device)          # from here on `tensor.device` says so
        ...                             # and what a real device refuses raises here
    gpu.waits                           # lines that read values off the device, or sent some to it, and how often

Refused: operators on tensors of two places (but for 0-dim CPU tensors among pointwise ones, and CPU indices of device
tensors), a generator of another place than what it fills, and on an Apple GPU every float64. Python's side of torch
(`.to`, `device=`, `tensor.device`) goes through a function mode, operators, those of the backward pass too, through
a dispatch mode below autograd. Kernels, speed and rounding of a GPU cannot be seen this way.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import d2rkit

KIT = Path(d2rkit.__file__).parent
CROSSING = {"copy_", "_to_copy", "_local_scalar_dense", "lift_fresh", "detach", "set_"}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
STATE_BYTES = 16  # of a generator on a GPU: seed and offset


class Refused(RuntimeError):
    """What a real device would have raised."""


def tensors_in(*things):
    return [leaf for leaf in tree_leaves(things) if isinstance(leaf, torch.Tensor)]


@cache
def file_of_interest(name: str) -> str | None:
    path = Path(name)
    return path.name if path.is_relative_to(KIT) or path.parent.name == "pyautoattack" else None


def line() -> str:
    """The innermost line of the kit, or of pyautoattack, on the stack."""
    frame = sys._getframe(1)
    while frame:
        if file := file_of_interest(frame.f_code.co_filename):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Pretended:
    """The device's memory (marks on storages, held weakly so that no address is used again) and what it counted."""

    def __init__(self, kind: str):
        self.kind, self.device = kind, torch.device(kind, 0)
        self.marked: dict[int, StorageWeakRef] = {}
        self.generators: dict[int, torch.Generator] = {}
        self.makes_on_device = [False]  # whether an operator without tensors makes one there
        self.waits, self.convolutions = Counter(), []

    def wait(self, times: int = 1) -> None:
        """Counted for the line at hand, which is looked for only if there is something to count."""
        if times:
            self.waits[line()] += int(times)

    def holds(self, tensor) -> bool:
        return tensor.device.type != "meta" and tensor.untyped_storage()._cdata in self.marked

    def is_meant(self, device) -> bool:
        return device is not None and torch.device(device).type == self.kind

    def take(self, tensor) -> None:
        if self.kind == "mps" and tensor.dtype in (torch.float64, torch.complex128):
            raise Refused(f"an Apple GPU has no float64, at {line()}")
        if len(self.marked) > 20_000:
            self.marked = {key: ref for key, ref in self.marked.items() if not ref.expired()}
        self.marked[tensor.untyped_storage()._cdata] = StorageWeakRef(tensor.untyped_storage())


class PythonSide(TorchFunctionMode):
    def __init__(self, gpu: Pretended):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        gpu, kwargs, name = self.gpu, dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if name == "__get__" and first is not None:
            result, attribute = func(*args, **kwargs), func.__self__.__name__
            if attribute == "device" and gpu.holds(first):
                return gpu.device
            kinds = {"is_cpu": not gpu.holds(first), "is_cuda": gpu.holds(first) and gpu.kind == "cuda"}
            return kinds.get(attribute, result)
        if first is not None and name in ("to", "cpu"):
            return self.moved(first, ("cpu",) if name == "cpu" else args[1:], kwargs)
        if first is not None and gpu.holds(first) and name in ("numpy", "__array__"):
            raise Refused(f"a tensor of {gpu.device} is no array, at {line()}")
        if name == "tolist" and gpu.holds(first):
            gpu.wait()
        asked = gpu.is_meant(kwargs.get("device"))
        if asked:
            kwargs["device"] = "cpu"
            gpu.wait(name in ("tensor", "as_tensor"))
        given = tensors_in(args, kwargs)
        gpu.makes_on_device.append(
            asked or any(map(gpu.holds, given)) or (name in ("backward", "grad") and gpu.makes_on_device[-1])
        )
        try:
            out = func(*args, **kwargs)
        finally:
            gpu.makes_on_device.pop()
        for tensor in tensors_in(out) if asked else ():
            gpu.take(tensor)
        return out

    def moved(self, tensor, rest, kwargs):
        """tensor.to(...), in any of its forms."""
        gpu, words = self.gpu, [*rest, *(kwargs.pop(k) for k in ("device", "dtype") if k in kwargs)]
        here = there = gpu.holds(tensor)
        dtype = tensor.dtype
        for word in words:
            if isinstance(word, torch.Tensor):
                there, dtype = gpu.holds(word), word.dtype
            elif isinstance(word, torch.dtype):
                dtype = word
            elif isinstance(word, (str, torch.device)):
                if torch.device(word).type == "meta":
                    return tensor.to("meta")
                there = gpu.is_meant(word)
        layout = {k: v for k, v in kwargs.items() if k == "memory_format"}
        if here == there and (dtype != torch.float64 or gpu.kind != "mps" or not there):
            return tensor.to(dtype, **layout)
        gpu.wait(here != there)
        gpu.makes_on_device.append(there)
        try:
            out = tensor.to(dtype, copy=True, **layout)
        finally:
            gpu.makes_on_device.pop()
        gpu.marked.pop(out.untyped_storage()._cdata, None)
        if there:
            gpu.take(out)
        return out


class OperatorSide(TorchDispatchMode):
    def __init__(self, gpu: Pretended):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        gpu, kwargs, name = self.gpu, kwargs or {}, func._schema.name.split("::")[-1]
        given = tensors_in(args, kwargs)
        if any(tensor.device.type == "meta" for tensor in given):
            return func(*args, **kwargs)
        places = {gpu.holds(tensor) for tensor in given if tensor.dim()}
        scalars = {gpu.holds(tensor) for tensor in given if not tensor.dim()}
        where = True in (places or scalars) if given else gpu.makes_on_device[-1]
        if name == "copy_":
            where = gpu.holds(args[0])
            gpu.wait(where != gpu.holds(args[1]))
        self.check(func, name, args, places, scalars)
        generator = kwargs.get("generator")
        if generator is not None and getattr(gpu.generators.get(generator._cdata), "on_device", False) != where:
            raise Refused(f"{name} with a generator of another place, at {line()}")
        if where:
            gpu.wait(name in WAITING)
            if "convolution" in name:
                gpu.convolutions.append((given[0].dtype, torch.backends.cudnn.allow_tf32, line()))
        known = {tensor.untyped_storage()._cdata for tensor in given}
        out = func(*args, **kwargs)
        for tensor in tensors_in(out) if where else ():
            if tensor.untyped_storage()._cdata not in known:
                gpu.take(tensor)
        return out

    def check(self, func, name, args, places, scalars) -> None:
        gpu = self.gpu
        if name in INDEXING:
            indices, values = [i for i in args[1] if i is not None], args[2:3] if "put" in name else ()
            if gpu.holds(args[0]):
                gpu.wait(sum((not gpu.holds(i)) + (i.dtype == torch.bool) for i in indices))
                if any(value.dim() and not gpu.holds(value) for value in values):
                    raise Refused(f"{name} with values of the CPU, at {line()}")
            elif any(map(gpu.holds, indices)):
                raise Refused(f"{name} of a CPU tensor by indices of {gpu.device}, at {line()}")
        elif name not in CROSSING:
            pointwise = torch.Tag.pointwise in func.tags or name.startswith("_foreach") or "fill" in name
            alone = len(places) == 1 and (scalars <= places or (places == {True} and pointwise))
            if len(places | scalars) == 2 and not alone and not (not places and pointwise):
                raise Refused(f"{name} of tensors on {gpu.device} and the CPU, at {line()}")


@contextmanager
def pretend(kind: str):
    gpu, real = Pretended(kind), torch.Generator

    class Generator(torch._C.Generator):
        def __new__(cls, device="cpu"):
            self = super().__new__(cls, "cpu")
            self.on_device = gpu.is_meant(device)
            gpu.generators[self._cdata] = self
            return self

        device = property(lambda self: gpu.device if self.on_device else torch.device("cpu"))

        def get_state(self):
            return super().get_state()[:STATE_BYTES].clone() if self.on_device else super().get_state()

        def set_state(self, state):
            if len(state) != len(self.get_state()):
                raise Refused(f"a state of {len(state)} bytes is of another kind of generator")
            return self if self.on_device else super().set_state(state)

    torch.Generator = Generator
    try:
        with OperatorSide(gpu), PythonSide(gpu):
            yield gpu
    finally:
        torch.Generator = real


def pretended_fabric(gpu: Pretended):
    """In place of make_fabric."""
    from lightning_fabric import Fabric

    def make(device, precision: str, partial: bool = False):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        fabric._strategy._root_device = gpu.device
        fabric._strategy.accelerator.setup_device = lambda device: None
        return fabric

    return make
