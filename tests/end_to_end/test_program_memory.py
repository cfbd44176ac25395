"""Programs that are larger than the program memory are shortened, or refused in words."""

from __future__ import annotations

import pytest

import models
from dsa_compiler.driver import compile_model
from dsa_compiler.errors import UserError
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.encoding import program_bytes
from dsa_compiler.target import Target, load_target, target_from_dict


def part(size: int | None) -> Target:
    """npu-edge with that much program memory."""
    source = dict(load_target("npu-edge").source)
    return target_from_dict(source | ({"program": {"size": size}} if size is not None else {}))


def test_layers_take_other_tiles_until_the_program_fits() -> None:
    model = models.build("tiny_cnn")
    whole = compile_model(model, part(None), CompileOptions(precision="float16"))
    assert whole.program.info["feedback"].get("program", 0) == 0
    limit = max(program_bytes(whole.program).values()) - 200
    fitted = compile_model(model, part(limit), CompileOptions(precision="float16"))
    assert max(program_bytes(fitted.program).values()) <= limit
    assert fitted.program.info["feedback"]["program"] == 1
    feeds = models.sample_inputs(model)
    for name, value in whole.run(feeds).items():
        assert abs(fitted.run(feeds)[name] - value).max() < 1e-2 * abs(value).max()


def test_a_program_that_no_choice_makes_fit_is_refused() -> None:
    with pytest.raises(UserError, match="bytes of program, and npu-edge has 1000"):
        compile_model(models.build("tiny_cnn"), part(1000), CompileOptions(precision="float16"))
