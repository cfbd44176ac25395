"""Where the tensors of a graph are stored: each on its own, or as a part of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dsa_compiler.errors import InternalError
from dsa_compiler.graph.layers import Tensor
from dsa_compiler.graph.views import Lazy, View, apply, flattened, identity

Rule = Callable[[View], bool]


def any_view(view: View) -> bool:
    """Accept every view."""
    return True


def innermost(view: View) -> bool:
    """Accept a view whose last dimension is contiguous or repeats."""
    return view.innermost_contiguous()


def matmul_left(view: View) -> bool:
    """Accept (..., m, k) with m or k contiguous."""
    return view.contiguous(len(view.shape) - 1) or view.contiguous(len(view.shape) - 2)


def matmul_right(view: View) -> bool:
    """Accept (..., k, n) with k or n contiguous."""
    return matmul_left(view)


def contiguous(view: View) -> bool:
    """Accept a view of a dense tensor whose elements lie one behind the other."""
    expected = 1
    for extent, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if extent != 1 and stride != (0, expected):
            return False
        expected *= extent
    return view.offset[0] == 0


def whole_rows(view: View) -> bool:
    """Accept a view of whole rows of a tensor, one behind the other, from its start."""
    if contiguous(view) and view.offset == (0, 0):
        return True
    step = 1
    for extent, stride in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if extent != 1 and stride != (step, 0):
            return False
        step *= extent
    return bool(view.shape) and view.offset == (0, 0) and view.contiguous(len(view.shape) - 1)


class Storage:
    """The places of tensors, and the uses that constrain them.

    `place` stores a tensor inside another one if every use so far remains a view that its rule accepts. `dense`
    names the tensors that must be stored without padding because a view runs across rows.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._places: dict[str, Lazy] = {}
        self._parts: dict[str, list[str]] = {}  # tensor -> those that `_places` puts into it
        self._uses: dict[str, list[tuple[Lazy, Rule]]] = {}  # by tensor
        self.dense: set[str] = set()

    def use(self, value: Lazy, rule: Rule) -> None:
        """Record that a layer reads or writes `value` by a view that `rule` accepts."""
        self._uses.setdefault(value.tensor, []).append((value, rule))
        view, dense = self._resolve(value)
        if view is None or not rule(view):
            raise InternalError(f"{value} is no view that its layer can use", where="extract_layers")
        if dense and self._tensors[view.tensor].role == "activation":
            self.dense.add(view.tensor)

    def view(self, value: Lazy) -> View:
        """Return the view of the tensor that really holds `value`."""
        view, _ = self._resolve(value)
        if view is None:
            raise InternalError(f"{value} is no affine view", where="extract_layers")
        return view

    def make_dense(self, value: Lazy) -> None:
        """Store the tensor that holds `value` without padding."""
        root = self._root(value.tensor)
        if self._tensors[root].role == "activation":
            self.dense.add(root)

    def possible(self, value: Lazy) -> bool:
        """Whether `value` is an affine view of where its tensor is stored."""
        return self._resolve(value)[0] is not None

    def place(self, value: Lazy, region: Lazy) -> bool:
        """Store the tensor of `value` so that `value` is `region`; return False, changing nothing, if it cannot be.

        It can if the tensor is an activation stored on its own, `value` holds each element of it once, and every
        use of it remains possible.
        """
        name = value.tensor
        tensor = self._tensors[name]
        if tensor.role != "activation" or name in self._places or not value.invertible():
            return False
        if name == region.tensor or self._root(region.tensor) == name:
            return False
        if tensor.dtype != self._tensors[region.tensor].dtype:
            return False
        self._places[name] = value.undone(region)
        moved = [use for stored in self._stored_in(name) for use in self._uses.get(stored, ())]
        resolved = [(self._resolve(v), rule) for v, rule in moved]
        if any(view is None or not rule(view) for (view, _), rule in resolved):
            del self._places[name]
            return False
        self._parts.setdefault(region.tensor, []).append(name)
        dense_names = {view.tensor for (view, dense), _ in resolved if dense and view is not None}
        self.dense.update(n for n in dense_names if self._tensors[n].role == "activation")
        return True

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name."""

        def renamed(value: Lazy) -> Lazy:
            return replace(value, tensor=new) if value.tensor == old else value

        self._places = {new if k == old else k: renamed(v) for k, v in self._places.items()}
        self._parts = {new if k == old else k: [new if n == old else n for n in v] for k, v in self._parts.items()}
        self._uses = {new if k == old else k: [(renamed(v), r) for v, r in uses] for k, uses in self._uses.items()}
        if old in self.dense:
            self.dense = (self.dense - {old}) | {new}

    def _root(self, name: str) -> str:
        while name in self._places:
            name = self._places[name].tensor
        return name

    def _stored_in(self, name: str) -> list[str]:
        """Return the tensors that are stored in tensor `name`, itself included."""
        found = [name]
        for tensor in found:
            found.extend(self._parts.get(tensor, ()))
        return found

    def _resolve(self, value: Lazy) -> tuple[View | None, bool]:
        """Return the view of the root tensor, and whether it needs that tensor dense."""
        root = self._tensors[self._root(value.tensor)]
        dense = self.is_dense(root)
        view = self._replayed(value, root, dense)
        if view is None and not dense:
            dense, view = True, self._replayed(value, root, True)
        return view, dense

    def is_dense(self, tensor: Tensor) -> bool:
        """Whether a tensor is stored without padding: rows of one element always are."""
        return tensor.role != "activation" or tensor.name in self.dense or tensor.columns == 1

    def _replayed(self, value: Lazy, root: Tensor, dense: bool) -> View | None:
        if value.tensor in self._places:
            view = self._replayed(self._places[value.tensor], root, dense)
        else:
            view = identity(root.name, root.shape)
            view = flattened(view, root.columns) if dense else view
        for move in value.moves:
            view = apply(view, move) if view is not None else None
        return view
