"""How numba is used where loops are compiled: typed decorators, and arrays without reference counts.

Numba keeps what it compiled beside each file and looks at that file's age alone: after a change to a kernel or
a constant here, touch the files whose kernels use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile to machine code at the first call, and keep the code for later sessions."""
    return cast(_F, njit(cache=True)(function))


def kernel(function: _F) -> _F:
    """As `compiled`, for functions that only compiled functions call.

    They are inlined: tuples of arrays are passed by value, which cost more than what the functions do.
    """
    return cast(_F, njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)(function))


def _borrow(typing_context: Any, array: Any) -> Any:
    """`array` itself, without a share in the ownership of its memory, so that its owner must outlive it:
    an array that the compiled function made itself is freed at the last use of its own name.

    Numba counts references atomically whenever an array is read out of a tuple or handed to a function; in the
    event loop that took four fifths of the time.
    """
    if not isinstance(array, types.Array):
        raise TypingError(f"borrow takes an array, not {array}")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, value=args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        view.parent = cgutils.get_null_value(view.parent.type)
        return view._getvalue()

    return array(array), codegen


borrow = cast(Callable[[np.ndarray], np.ndarray], intrinsic(_borrow))
