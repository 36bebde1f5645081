"""Run Kokoro's int8 ONNX export with PyTorch: a small interpreter, so that speech is made on a GPU.

onnxruntime's int8 operators run on the CPU only. Here the quantised weights are dequantised once, activations
stay floats (they are never rounded), and each node becomes a Python function of tensors. Shapes and indices stay
on the CPU, where they cost no synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64,
}  # fmt: skip
_BINARY = {
    "Mul": torch.mul, "Add": torch.add, "Sub": torch.sub, "Pow": torch.pow, "Equal": torch.eq,
    "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge, "And": torch.logical_and,
    "MatMul": torch.matmul,
}  # fmt: skip
_UNARY = {
    "Sqrt": torch.sqrt, "Floor": torch.floor, "Sin": torch.sin, "Cos": torch.cos, "Sigmoid": torch.sigmoid,
    "Round": torch.round, "Tanh": torch.tanh, "Exp": torch.exp,
    "Atan": lambda x: torch.nan_to_num(torch.atan(x)),
}  # fmt: skip
Function = Callable[..., Any]


def _ints(x: Tensor) -> list[int]:
    return [int(v) for v in x.reshape(-1).tolist()]


class Network:
    """A graph ready to run.

    Args:
        path: the .onnx file.
        device: where floats live.
        also: names of further values to return behind the graph's outputs.
    """

    def __init__(self, path: str, device: str = "cpu", also: tuple[str, ...] = ()) -> None:
        graph = onnx.load(path).graph
        self.device = torch.device(device)
        self.constants = {i.name: self._place(numpy_helper.to_array(i)) for i in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self.constants]
        self.steps: list[tuple[Function, list[str], list[str]]] = []
        alias: dict[str, str] = {}
        for node in graph.node:
            self._add(node, alias)
        self.outputs = [alias.get(n, n) for n in [*(o.name for o in graph.output), *also]]
        self._find_last_uses()

    def _place(self, array: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.array(array))
        moves = (x.is_floating_point() and x.dim() > 0) or x.dtype in (torch.int8, torch.uint8)
        return x.to(self.device) if moves else x

    def _add(self, node: onnx.NodeProto, alias: dict[str, str]) -> None:
        inputs, outputs, kind = [alias.get(n, n) for n in node.input], list(node.output), node.op_type
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if kind == "Constant":
            self.constants[outputs[0]] = self._place(numpy_helper.to_array(given["value"]))
            return
        if kind == "DynamicQuantizeLinear":  # not quantised: scale 1, zero point 0
            alias[outputs[0]] = inputs[0]
            self.constants[outputs[1]] = torch.tensor(1.0)
            self.constants[outputs[2]] = torch.tensor(0)
            return
        rounding = kind == "Floor" and "bias_quant_rounded" in outputs[0]
        narrowing = kind == "Cast" and given["to"] == 6 and "bias" in outputs[0]
        widening = kind == "Cast" and given["to"] == 1 and ("_cast" in outputs[0] or "quantized" in inputs[0])
        if rounding or narrowing or widening:
            alias[outputs[0]] = inputs[0]
            return
        function = self._function(kind, given, inputs, len(outputs))
        if inputs and all(n == "" or n in self.constants for n in inputs):
            values = function(*[self.constants.get(n) for n in inputs])
            values = values if isinstance(values, tuple) else (values,)
            self.constants.update(zip(outputs, values, strict=False))
            return
        self.steps.append((function, inputs, outputs))

    def _function(self, kind: str, given: dict[str, Any], inputs: list[str], outputs: int) -> Function:
        if kind in _BINARY:
            return _together(_BINARY[kind])
        if kind in _UNARY:
            return _UNARY[kind]
        if kind in ("MatMulInteger", "ConvInteger", "Conv", "ConvTranspose", "DynamicQuantizeLSTM"):
            return getattr(self, f"_{kind.lower()}")(given, inputs)
        return _GENERAL[kind](given, self.device, outputs)

    def _weight(self, name: str, zero: str | None) -> Tensor:
        weight = self.constants[name].to(self.device).float()
        return weight - self.constants[zero].float().to(self.device) if zero else weight

    def _matmulinteger(self, given: dict[str, Any], inputs: list[str]) -> Function:
        if inputs[1] not in self.constants:
            return lambda a, b, *_: torch.matmul(a, b)
        weight = self._weight(inputs[1], inputs[3] if len(inputs) > 3 else None)
        return lambda a, *_: torch.matmul(a, weight)

    def _convinteger(self, given: dict[str, Any], inputs: list[str]) -> Function:
        run = self._convolution(given, self._weight(inputs[1], inputs[3] if len(inputs) > 3 else None))
        return lambda x, *_: run(x, None)

    def _conv(self, given: dict[str, Any], inputs: list[str]) -> Function:
        run = self._convolution(given, self._weight(inputs[1], None))
        return lambda x, _, bias=None: run(x, bias)

    def _convolution(self, given: dict[str, Any], weight: Tensor) -> Function:
        stride, dilation, groups, pads = _geometry(given, weight)
        conv = (functional.conv1d, functional.conv2d)[weight.dim() - 3]
        return lambda x, bias: conv(x, weight, bias, stride, pads, dilation, groups)

    def _convtranspose(self, given: dict[str, Any], inputs: list[str]) -> Function:
        weight = self._weight(inputs[1], None)
        stride, dilation, groups, pads = _geometry(given, weight)
        conv = (functional.conv_transpose1d, functional.conv_transpose2d)[weight.dim() - 3]
        more = given.get("output_padding", [0] * len(stride))
        return lambda x, _, bias=None: conv(x, weight, bias, stride, pads, more, groups, dilation)

    def _dynamicquantizelstm(self, given: dict[str, Any], inputs: list[str]) -> Function:
        """ONNX: weights (D, in, 4H), gates i o f c, two biases in a row. PyTorch: (4H, in), gates i f c o."""
        size = given["hidden_size"]

        def floats(weight: int, scale: int, zero: int) -> Tensor:
            w, s, z = (self.constants[inputs[n]].to(self.device) for n in (weight, scale, zero))
            return (w.float() - z.float().reshape(len(w), 1, -1)) * s.reshape(len(w), 1, -1)

        def gates(x: Tensor) -> Tensor:
            i, o, f, c = x.split(size, 0)
            return torch.cat([i, f, c, o], 0)

        into, again = floats(1, 8, 9), floats(2, 10, 11)
        bias = self.constants[inputs[3]]
        lstm = torch.nn.LSTM(into.shape[1], size, bidirectional=True).to(self.device)
        with torch.no_grad():
            for d, end in enumerate(("", "_reverse")):
                getattr(lstm, f"weight_ih_l0{end}").copy_(gates(into[d].t().contiguous()))
                getattr(lstm, f"weight_hh_l0{end}").copy_(gates(again[d].t().contiguous()))
                getattr(lstm, f"bias_ih_l0{end}").copy_(gates(bias[d][: 4 * size]))
                getattr(lstm, f"bias_hh_l0{end}").copy_(gates(bias[d][4 * size :]))

        def run(x: Tensor, *_: object) -> tuple[Tensor, ...]:
            y, (h, c) = lstm(x)
            return y.reshape(*y.shape[:2], 2, size).permute(0, 2, 1, 3), h, c

        return run

    def _find_last_uses(self) -> None:
        last = {name: n for n, (_, inputs, _) in enumerate(self.steps) for name in inputs}
        self.free: list[list[str]] = [[] for _ in self.steps]
        for name, n in last.items():
            if name and name not in self.constants and name not in self.outputs:
                self.free[n].append(name)

    @torch.no_grad()
    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        """The outputs for inputs by name."""
        values = dict(inputs)
        for (function, names, outputs), done in zip(self.steps, self.free, strict=True):
            given = [(values[n] if n in values else self.constants[n]) if n else None for n in names]
            result = function(*given)
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,), strict=False))
            for name in done:
                values.pop(name, None)
        return [values[n] if n in values else self.constants[n] for n in self.outputs]


def _geometry(given: dict[str, Any], weight: Tensor) -> tuple[list[int], list[int], int, list[int]]:
    axes = weight.dim() - 2
    pads = given.get("pads", [0] * 2 * axes)
    if pads[:axes] != pads[axes:]:
        raise NotImplementedError(f"uneven padding {pads}")
    ones = [1] * axes
    return given.get("strides", ones), given.get("dilations", ones), given.get("group", 1), pads[:axes]


def _together(function: Function) -> Function:
    """A function of two tensors, the one that is no scalar on the CPU moved to the other's device."""

    def run(a: Tensor, b: Tensor) -> Tensor:
        if a.device != b.device:
            if a.device.type == "cpu" and a.dim() > 0:
                a = a.to(b.device)
            elif b.device.type == "cpu" and b.dim() > 0:
                b = b.to(a.device)
        return function(a, b)

    return run


def _divide(a: Tensor, b: Tensor) -> Tensor:
    floats = a.is_floating_point() or b.is_floating_point()
    return torch.div(a, b, rounding_mode=None if floats else "trunc")


def _gather(axis: int) -> Function:
    def run(x: Tensor, index: Tensor) -> Tensor:
        if index.dim() == 0:
            return x.select(axis, int(index))
        found = x.index_select(axis, index.reshape(-1).to(x.device))
        at = axis % x.dim()
        return found.reshape(*x.shape[:at], *index.shape, *x.shape[at + 1 :])

    return run


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    places = _ints(axes)
    for axis in sorted(a % (x.dim() + len(places)) for a in places):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    for axis in sorted((a % x.dim() for a in _ints(axes)), reverse=True):
        x = x.squeeze(axis)
    return x


def _concat(axis: int, device: torch.device) -> Function:
    def run(*parts: Tensor) -> Tensor:
        if any(p.device.type != "cpu" for p in parts):
            parts = tuple(p.to(device) for p in parts)
        return torch.cat([p.to(parts[0].dtype) for p in parts], axis)

    return run


def _slice(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = _ints(starts), _ints(ends)
    over = _ints(axes) if axes is not None else list(range(len(first)))
    by = _ints(steps) if steps is not None else [1] * len(first)
    for a, b, axis, step in zip(first, last, over, by, strict=True):
        index = range(x.shape[axis])[slice(a, None if step < 0 and b < -x.shape[axis] else b, step)]
        if step == 1:
            x = x.narrow(axis, index.start, len(index))
        else:
            x = x.index_select(axis, torch.tensor(list(index), dtype=torch.long, device=x.device))
    return x


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[n] if v == 0 else v for n, v in enumerate(_ints(shape))])


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    want = _ints(shape)
    want = [1] * (x.dim() - len(want)) + want
    have = [1] * (len(want) - x.dim()) + list(x.shape)
    return x.expand([max(a, b) if min(a, b) > 0 else 0 for a, b in zip(have, want, strict=True)])


def _where(device: torch.device) -> Function:
    def run(*parts: Tensor) -> Tensor:
        if any(p.device.type != "cpu" and p.dim() > 0 for p in parts):
            parts = tuple(p.to(device) for p in parts)
        return torch.where(*parts)

    return run


def _constant(given: dict[str, Any], device: torch.device) -> Function:
    value = numpy_helper.to_array(given["value"]).reshape(-1)[0] if "value" in given else np.float32(0)
    kind = torch.from_numpy(np.array(value)).dtype

    def run(shape: Tensor) -> Tensor:
        x = torch.full(_ints(shape), value.item(), dtype=kind)
        return x.to(device) if x.is_floating_point() else x

    return run


def _fused(given: dict[str, Any]) -> Function:
    def run(a: Tensor, b: Tensor) -> Tensor:
        a = a.transpose(-1, -2) if given.get("transA") else a
        b = b.transpose(-1, -2) if given.get("transB") else b
        return torch.matmul(a, b) * given.get("alpha", 1.0)

    return _together(run)


def _resize(mode: str) -> Function:
    def run(x: Tensor, _: object, scales: Tensor, sizes: object = None) -> Tensor:
        scale = float(scales.reshape(-1)[-1])
        if mode == "nearest":
            return x.repeat_interleave(round(scale), -1)
        size = int(np.floor(x.shape[-1] * scale + 1e-6))
        y = functional.interpolate(
            x, scale_factor=scale, mode="linear", align_corners=False, recompute_scale_factor=False
        )
        return y[..., :size]

    return run


def _pad(mode: str) -> Function:
    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: object = None) -> Tensor:
        sizes = _ints(pads)
        half = len(sizes) // 2
        pairs = [v for n in reversed(range(half)) for v in (sizes[n], sizes[n + half])]
        if mode == "reflect":  # PyTorch reflects (N, C, T) only
            flat = x.reshape(1, -1, x.shape[-1])
            return functional.pad(flat, pairs[:2], mode="reflect").reshape(*x.shape[:-1], -1)
        return functional.pad(x, pairs, value=0.0 if value is None else float(value))

    return run


def _stft(x: Tensor, step: Tensor, window: Tensor, size: Tensor | None = None) -> Tensor:
    frames = x.reshape(x.shape[0], -1).unfold(1, len(window), int(step)) * window.to(x.device)
    return torch.view_as_real(torch.fft.rfft(frames, dim=-1))


def _scatter(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    y = x.clone()
    y[tuple(index[..., n].to(x.device) for n in range(index.shape[-1]))] = updates.to(x.device)
    return y


def _split(axis: int, parts: int) -> Function:
    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(torch.split(x, _ints(sizes) if sizes is not None else -(-x.shape[axis] // parts), axis))

    return run


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return (x.float() - (zero.float().to(x.device) if zero is not None else 0)) * scale.to(x.device)


# by kind: (attributes, device, number of outputs) -> function of the inputs
_GENERAL: dict[str, Callable[[dict[str, Any], torch.device, int], Function]] = {
    "Div": lambda g, d, n: _together(_divide),
    "Shape": lambda g, d, n: lambda x: torch.tensor(list(x.shape)),
    "Cast": lambda g, d, n: lambda x: x.to(_TYPES[g["to"]]),
    "Unsqueeze": lambda g, d, n: _unsqueeze,
    "Squeeze": lambda g, d, n: _squeeze,
    "Gather": lambda g, d, n: _gather(g.get("axis", 0)),
    "Split": lambda g, d, n: _split(g.get("axis", 0), n),
    "Transpose": lambda g, d, n: lambda x: x.permute(g["perm"]),
    "Concat": lambda g, d, n: _concat(g["axis"], d),
    "Slice": lambda g, d, n: _slice,
    "Reshape": lambda g, d, n: _reshape,
    "ConstantOfShape": lambda g, d, n: _constant(g, d),
    "Expand": lambda g, d, n: _expand,
    "Where": lambda g, d, n: _where(d),
    "ReduceMean": lambda g, d, n: lambda x, axes: x.mean(_ints(axes), keepdim=bool(g.get("keepdims", 1))),
    "ReduceSum": lambda g, d, n: lambda x, axes: x.sum(_ints(axes), keepdim=bool(g.get("keepdims", 1))),
    "LeakyRelu": lambda g, d, n: lambda x: functional.leaky_relu(x, g.get("alpha", 0.01)),
    "FusedMatMul": lambda g, d, n: _fused(g),
    "LayerNormalization": lambda g, d, n: lambda x, w, b=None: _norm(x, w, b, g["epsilon"]),
    "SkipLayerNormalization": lambda g, d, n: (
        lambda x, skip, w, b=None, more=None: _norm(
            x + skip + (0 if more is None else more), w, b, g["epsilon"]
        )
    ),
    "FastGelu": lambda g, d, n: (
        lambda x, b=None: functional.gelu(x if b is None else x + b, approximate="tanh")
    ),
    "Softmax": lambda g, d, n: lambda x: torch.softmax(x, g.get("axis", -1)),
    "Clip": lambda g, d, n: (
        lambda x, low=None, high=None: torch.clamp(
            x, None if low is None else low.item(), None if high is None else high.item()
        )
    ),
    "CumSum": lambda g, d, n: lambda x, axis: torch.cumsum(x, int(axis)),
    "Range": lambda g, d, n: lambda a, b, c: torch.arange(int(a), int(b), int(c)),
    "DequantizeLinear": lambda g, d, n: _dequantize,
    "Resize": lambda g, d, n: _resize(g["mode"].decode()),
    "Pad": lambda g, d, n: _pad(g.get("mode", b"constant").decode()),
    "STFT": lambda g, d, n: _stft,
    "NonZero": lambda g, d, n: lambda x: torch.nonzero(x).t(),
    "ScatterND": lambda g, d, n: _scatter,
}
