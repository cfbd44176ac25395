"""The elementwise part of a layer as an expression of its anchor's result and its other operands."""

from __future__ import annotations

from tvm import tirx

from dsa_compiler.lower.chain import chain_after
from tests.lower.networks import Network, call, layer

SHAPE = (4, 8)


def named(name: str, dtype: str = "float16") -> tirx.Var:
    return tirx.Var(name, dtype)


def make(calls: list, inputs: int = 3, master: int = 0):  # type: ignore[no-untyped-def, type-arg]
    network = Network()
    views = [network.source(f"x{i}", SHAPE) for i in range(inputs)]
    return layer("matmul", calls, views, network.result("y", SHAPE), master)


def test_nothing_after_the_anchor() -> None:
    chain = chain_after(make([call("matmul", (0, 1), SHAPE)]), 0)
    assert chain.identity and chain.inputs == ()
    acc = named("acc", "float32")
    assert chain.value(acc, []).same_as(acc)


def test_casts_are_free() -> None:
    chain = chain_after(make([call("matmul", (0, 1), SHAPE), call("astype", ("%0",), SHAPE, "float32")]), 0)
    assert chain.identity and chain.operations == 0


def test_operands_in_order_and_widened() -> None:
    calls = [call("matmul", (0, 1), SHAPE), call("add", ("%0", 2), SHAPE), call("nn.relu", ("%1",), SHAPE)]
    chain = chain_after(make(calls), 0)
    assert chain.inputs == (2,) and chain.operations == 2 and not chain.identity
    text = str(chain.value(named("acc", "float32"), [named("r")]))
    assert text == 'T.max(acc + T.Cast("float32", r), T.float32(0.0))'


def test_numbers_take_the_dtype_of_the_others() -> None:
    chain = chain_after(make([call("matmul", (0, 1), SHAPE), call("multiply", ("%0", ("const", 3.0)), SHAPE)]), 0)
    assert str(chain.value(named("acc", "float32"), [])) == "acc * T.float32(3.0)"


def test_result_used_twice() -> None:
    calls = [call("matmul", (0, 1), SHAPE), call("sigmoid", ("%0",), SHAPE), call("multiply", ("%0", "%1"), SHAPE)]
    chain = chain_after(make(calls), 0)
    assert chain.operations == 2
    assert str(chain.value(named("acc", "float32"), [])) == "acc * T.sigmoid(acc)"


def test_calls_beside_the_anchor() -> None:
    """An operand that is computed from another input, not from the anchor."""
    calls = [call("matmul", (0, 1), SHAPE), call("exp", (2,), SHAPE), call("add", ("%0", "%1"), SHAPE)]
    chain = chain_after(make(calls), 0)
    assert chain.inputs == (2,)
    assert str(chain.value(named("acc", "float32"), [named("r")])) == 'acc + T.exp(T.Cast("float32", r))'


def test_from_a_later_call() -> None:
    """With the bias already added, its operand is not needed."""
    calls = [call("matmul", (0, 1), SHAPE), call("add", ("%0", 2), SHAPE), call("nn.relu", ("%1",), SHAPE)]
    chain = chain_after(make(calls), 1)
    assert chain.inputs == () and chain.operations == 1


def test_without_an_anchor() -> None:
    calls = [call("add", (0, 1), SHAPE), call("multiply", ("%0", 2), SHAPE)]
    chain = chain_after(make(calls), -1)
    assert chain.inputs == (0, 1, 2) and chain.operations == 2
    a, b, c = named("a", "float32"), named("b", "float32"), named("c", "float32")
    assert str(chain.value(None, [a, b, c])) == "(a + b) * c"


def test_copy_passes_its_operand_on() -> None:
    chain = chain_after(make([call("copy", (0,), SHAPE)], inputs=1), -1)
    assert chain.identity and chain.inputs == (0,)
    assert str(chain.value(None, [named("a", "int32")])) == "a"


def test_numbers_that_a_condition_chooses_have_the_dtype_of_the_result() -> None:
    calls = [call("where", (0, ("const", 0.0), ("const", float("-inf"))), SHAPE)]
    text = str(chain_after(make(calls, inputs=1), -1).value(None, [named("m", "bool")]))
    assert "bool" not in text.replace("T.bool(m)", "") and "float" in text
