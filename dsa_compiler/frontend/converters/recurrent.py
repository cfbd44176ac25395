"""ONNX recurrent operators, unrolled: one product for the inputs of all steps, one a step for the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from dsa_compiler.frontend.converters.integer import dynamic_matmul
from dsa_compiler.frontend.node import Converter, Node, constant, dtype_of, shape_of

op = relax.op
Cell = Callable[["_Direction", Any, tuple[Any, ...]], tuple[Any, ...]]


class _Direction:
    """One direction of a recurrent node: its weights and the emission of a step."""

    def __init__(self, node: Node, index: int, gates: int) -> None:
        self.node = node
        self.hidden = int(node.attrs["hidden_size"])
        self.gates = gates
        weights, recurrent = (self._constant(i)[index] for i in (1, 2))
        self.input_weights, self.state_weights = weights.T, recurrent.T
        bias = self._constant(3)[index] if node.has(3) else np.zeros(2 * gates * self.hidden, weights.dtype)
        self.input_bias, self.state_bias = bias[: gates * self.hidden], bias[gates * self.hidden :]
        self.peepholes = self._constant(7)[index] if gates == 4 and node.has(7) else None

    def _constant(self, index: int) -> Any:
        value = self.node.value(index)
        if value is None:
            raise self.node.error(f"weights (input {index}) that are computed")
        return value

    def emit(self, expr: Any) -> Any:
        """Bind an expression."""
        return self.node.emit(expr)

    def product(self, x: Any, weights: Any, bias: Any | None = None) -> Any:
        """Emit x times constant weights, plus a constant bias."""
        y = self.emit(op.matmul(x, relax.const(np.ascontiguousarray(weights))))
        return y if bias is None or not np.any(bias) else self.emit(op.add(y, relax.const(np.ascontiguousarray(bias))))

    def gate(self, x: Any, index: int) -> Any:
        """Emit the columns of one gate."""
        axis, n = len(shape_of(x)) - 1, self.hidden
        return self.emit(op.strided_slice(x, [axis], [index * n], [(index + 1) * n], [1]))

    def columns(self, array: Any, begin: int, end: int) -> Any:
        """Return the columns of gates `begin` to `end` of constant weights or biases."""
        return array[..., begin * self.hidden : end * self.hidden]

    def peep(self, x: Any, state: Any, index: int) -> Any:
        """Emit x plus the state times a peephole's weights, if there are any."""
        if self.peepholes is None:
            return x
        weights = relax.const(np.ascontiguousarray(self.columns(self.peepholes, index, index + 1)))
        return self.emit(op.add(x, self.emit(op.multiply(state, weights))))


class _QuantizedDirection(_Direction):
    """A direction of com.microsoft.DynamicQuantizeLSTM: weights [directions, k, 4 * hidden] of 8 bits."""

    def __init__(self, node: Node, index: int, gates: int) -> None:
        super().__init__(node, index, gates)
        self._scales: dict[int, Any] = {}
        self.input_weights = self._weights(1, index)
        self.state_weights = self._weights(2, index)

    def _weights(self, place: int, index: int) -> Any:
        values, zero = self._constant(place)[index], self._constant(2 * place + 7)
        scale = self._constant(2 * place + 6)
        centered = values.astype(np.int32) - zero.astype(np.int32).reshape(len(zero), -1)[index]
        self._scales[id(centered)] = scale.reshape(len(scale), -1)[index]
        return centered

    def product(self, x: Any, weights: Any, bias: Any | None = None) -> Any:
        """Emit x, quantised as its extremes say, times 8-bit weights, plus a constant bias."""
        scale = self._scales[id(weights)]
        y = dynamic_matmul(self.node, x, weights, scale if scale.size > 1 else scale.reshape(()))
        return y if bias is None or not np.any(bias) else self.emit(op.add(y, relax.const(np.ascontiguousarray(bias))))


def _lstm_cell(d: _Direction, x: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gates in order input, output, forget, cell."""
    h, c = state
    total = d.emit(op.add(x, d.product(h, d.state_weights)))
    i = d.emit(op.sigmoid(d.peep(d.gate(total, 0), c, 0)))
    f = d.emit(op.sigmoid(d.peep(d.gate(total, 2), c, 2)))
    candidate = d.emit(op.tanh(d.gate(total, 3)))
    cell = d.emit(op.add(d.emit(op.multiply(f, c)), d.emit(op.multiply(i, candidate))))
    o = d.emit(op.sigmoid(d.peep(d.gate(total, 1), cell, 1)))
    return d.emit(op.multiply(o, d.emit(op.tanh(cell)))), cell


def _gru_cell(d: _Direction, x: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gates in order update, reset, hidden: h' = h~ + z * (h - h~)."""
    (h,) = state
    hidden_weights = d.columns(d.state_weights, 2, 3)
    if d.node.attrs.get("linear_before_reset", 0):
        total = d.product(h, d.state_weights, d.state_bias)
        gates, through = [d.gate(total, i) for i in (0, 1)], d.gate(total, 2)
    else:
        total = d.product(h, d.columns(d.state_weights, 0, 2), d.columns(d.state_bias, 0, 2))
        gates, through = [d.gate(total, i) for i in (0, 1)], None
    z, r = (d.emit(op.sigmoid(d.emit(op.add(d.gate(x, i), g)))) for i, g in enumerate(gates))
    if through is None:
        reset = d.emit(op.multiply(r, h))
        inner = d.product(reset, hidden_weights, d.columns(d.state_bias, 2, 3))
    else:
        inner = d.emit(op.multiply(r, through))
    candidate = d.emit(op.tanh(d.emit(op.add(d.gate(x, 2), inner))))
    moved = d.emit(op.multiply(z, d.emit(op.subtract(h, candidate))))
    return (d.emit(op.add(candidate, moved)),)


def _rnn_cell(d: _Direction, x: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    return (d.emit(op.tanh(d.emit(op.add(x, d.product(state[0], d.state_weights))))),)


def _recurrent(cell: Cell, gates: int, states: int, kind: type[_Direction] = _Direction) -> Converter:
    def convert(node: Node) -> Any:
        _check(node, gates)
        steps, batch, _ = shape_of(node.inputs[0])
        names = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        outputs, finals = [], []
        for index, backwards in enumerate(names[node.text("direction", "forward")]):
            d = kind(node, index, gates)
            state = tuple(_initial(d, index, 5 + k, batch) for k in range(states))
            hidden, state = _run(d, cell, state, range(steps - 1, -1, -1) if backwards else range(steps), gates)
            outputs.append(hidden)
            finals.append(state)
        return [_stacked(node, outputs, steps), *(_final(node, finals, k) for k in range(states))][: node.outputs]

    return convert


def _check(node: Node, gates: int) -> None:
    defaults = {1: ["Tanh"], 3: ["Sigmoid", "Tanh"], 4: ["Sigmoid", "Tanh", "Tanh"]}[gates]
    given = [a.decode() if isinstance(a, bytes) else a for a in node.attrs.get("activations", [])]
    if any(a.lower() != b.lower() for a, b in zip(given, defaults * 2, strict=False)):
        raise node.error(f"activations {given}")
    for name in ("clip", "input_forget", "layout"):
        if node.attrs.get(name):
            raise node.error(f"attribute {name}")
    lengths = node.value(4)
    if node.has(4) and (lengths is None or np.any(lengths != shape_of(node.inputs[0])[0])):
        raise node.error("sequences of different lengths")


def _initial(d: _Direction, index: int, place: int, batch: int) -> Any:
    """Return an initial state [batch, hidden], zero if not given."""
    node = d.node
    if not node.has(place):
        return relax.const(np.zeros((batch, d.hidden), dtype_of(node.inputs[0])))
    value = constant(node.inputs[place])
    if value is not None:
        return relax.const(np.ascontiguousarray(value[index]))
    part = node.emit(op.strided_slice(node.inputs[place], [0], [index], [index + 1], [1]))
    return node.emit(op.reshape(part, [batch, d.hidden]))


def _run(
    d: _Direction, cell: Cell, state: tuple[Any, ...], order: range, gates: int
) -> tuple[list[Any], tuple[Any, ...]]:
    """Emit the steps in `order`; return the hidden states by step and the last state."""
    x = d.node.inputs[0]
    steps, batch, _ = shape_of(x)
    bias = d.input_bias if gates == 3 else d.input_bias + d.state_bias
    inputs = d.product(x, d.input_weights, bias)
    hidden: list[Any] = [None] * steps
    for t in order:
        row = d.emit(op.strided_slice(inputs, [0], [t], [t + 1], [1]))
        state = cell(d, d.emit(op.reshape(row, [batch, gates * d.hidden])), state)
        hidden[t] = state[0]
    return hidden, state


def _stacked(node: Node, outputs: list[list[Any]], steps: int) -> Any:
    """Return the hidden states [steps, directions, batch, hidden]."""
    parts = [outputs[k][t] for t in range(steps) for k in range(len(outputs))]
    batch, hidden = shape_of(parts[0])
    rows = [node.emit(op.reshape(p, [1, batch, hidden])) for p in parts]
    joined = node.emit(op.concat(rows, 0)) if len(rows) > 1 else rows[0]
    return node.emit(op.reshape(joined, [steps, len(outputs), batch, hidden]))


def _final(node: Node, finals: list[tuple[Any, ...]], index: int) -> Any:
    """Return the last states [directions, batch, hidden]."""
    batch, hidden = shape_of(finals[0][index])
    rows = [node.emit(op.reshape(f[index], [1, batch, hidden])) for f in finals]
    return node.emit(op.concat(rows, 0)) if len(rows) > 1 else rows[0]


def recurrent_converters() -> dict[str, Converter]:
    """Return the converters of LSTM, GRU and RNN."""
    return {
        "GRU": _recurrent(_gru_cell, 3, 1),
        "LSTM": _recurrent(_lstm_cell, 4, 2),
        "RNN": _recurrent(_rnn_cell, 1, 1),
    }


def quantized_recurrent_converters() -> dict[str, Converter]:
    """Return the converters of recurrent operators of com.microsoft."""
    return {"DynamicQuantizeLSTM": _recurrent(_lstm_cell, 4, 2, _QuantizedDirection)}
