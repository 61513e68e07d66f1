"""A simulated GPU: the CPU computes, but what a GPU would refuse or wait for is noticed."""

import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# a device that torch can name and differentiate on, but for which it has no kernels
DEVICE = torch.device("lazy")
PACKAGE = "sklearn_soapbpnn"
aten = torch.ops.aten
# what needs a number of the GPU, most often the size of its result, before the CPU can go on
WAITING = {
    *(aten._local_scalar_dense.default, aten.equal.default),
    *(aten.nonzero.default, aten.masked_select.default, aten.bincount.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
}
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated GPU; its numbers are in the memory of the CPU.

    Parameters
    ----------
    values : Tensor
        The numbers.
    """

    @staticmethod
    def __new__(cls, values):
        values = _fill(values)
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, dtype=values.dtype, device=DEVICE, **layout
        )

    def __init__(self, values):
        self.values = _fill(values)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("There is a simulated GPU only within `with SimulatedGPU()`.")


def _fill(values):
    """Return a tensor as it is in memory: neither implied zeros nor an implied conjugate."""
    if values._is_zerotensor():
        return torch.zeros_like(values)
    return values.resolve_conj().resolve_neg()


class SimulatedGPU(TorchDispatchMode):
    """Within its ``with`` block there is a device :data:`DEVICE`.

    Tensors on different devices cannot be combined, with the exceptions that CUDA makes: numbers
    (tensors without axes) of the CPU in elementwise functions, and indices on the CPU.

    Attributes
    ----------
    waits : list of str
        Where the CPU had to wait for the GPU, and for what: file and line in the package, function.
    """

    def __init__(self):
        super().__init__()
        self.waits = []
        self._constants = _Constants()

    def __enter__(self):
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._constants.__exit__(*exception)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        inputs = _list_tensors((args, kwargs))
        on_gpu = [isinstance(tensor, SimulatedTensor) for tensor in inputs]
        target = kwargs.get("device")
        to_gpu = any(on_gpu) if target is None else target.type == DEVICE.type
        if any(on_gpu):
            self._check(function, inputs, on_gpu)
        moves = function in COPIES and len({*on_gpu, to_gpu}) > 1
        if moves or (any(on_gpu) and _waits(function, args, kwargs)):
            self.waits.append(f"{_find_place()} {function}")
        if to_gpu and target is not None:
            kwargs["device"] = torch.device("cpu")
        numbers = tree_map_only(SimulatedTensor, lambda tensor: tensor.values, (args, kwargs))
        results = function(*numbers[0], **numbers[1])
        return _wrap(function, results, args, kwargs, to_gpu)

    def _check(self, function, inputs, on_gpu):
        """Raise if a GPU could not combine these tensors."""
        on_cpu = [tensor for tensor, is_there in zip(inputs, on_gpu) if not is_there]
        if not on_cpu or function in COPIES or function in INDEXING:
            return
        if torch.Tag.pointwise in function.tags and all(tensor.ndim == 0 for tensor in on_cpu):
            return
        shapes = [(str(tensor.device), *tensor.shape) for tensor in inputs]
        raise RuntimeError(f"{function} combines tensors on the CPU and on the GPU: {shapes}")


class _Constants(TorchFunctionMode):
    """Torch makes tensors of lists, and lists of tensors, without asking a TorchDispatchMode."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.new_tensor:
            like, *args = args
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            function = torch.tensor
        if function is torch.Tensor.tolist:
            return args[0].cpu().tolist()
        if function is torch.Tensor.__getitem__ and isinstance(args[1], (list, tuple)):
            places = (args[1],) if isinstance(args[1], list) else args[1]
            there = args[0].device
            places = [torch.tensor(k).to(there) if isinstance(k, list) else k for k in places]
            return args[0][tuple(places)]
        if function is not torch.tensor or kwargs.get("device") != DEVICE:
            return function(*args, **kwargs)
        return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)


def _list_tensors(arguments):
    tensors = []
    tree_map_only(torch.Tensor, tensors.append, arguments)
    return tensors


def _waits(function, args, kwargs):
    """Return whether the result of a function on the GPU needs the CPU to wait."""
    if function == aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if function in INDEXING:
        # an index on the CPU is copied, and a mask counted
        indices = _list_tensors(args[1])
        return any(i.dtype == torch.bool or not isinstance(i, SimulatedTensor) for i in indices)
    return function in WAITING


def _wrap(function, results, args, kwargs, to_gpu):
    """Return the results on their device; what a function has written to is returned itself."""
    schema = function._schema
    written = [
        kwargs.get(argument.name) if argument.kwarg_only else args[place]
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and (argument.kwarg_only or place < len(args))
    ]
    returns = schema.returns
    if written and returns and returns[0].alias_info is not None:
        return written[0] if len(returns) == 1 else tuple(written)
    if not to_gpu:
        return results
    return tree_map_only(torch.Tensor, SimulatedTensor, results)


def _find_place():
    """Return the line of the package that is being executed."""
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if f"/{PACKAGE}/" in code.co_filename:
            return f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}:"
        frame = frame.f_back
    return "elsewhere:"
