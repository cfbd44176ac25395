"""The page shows every instruction, derived from the table."""

from __future__ import annotations

import subprocess
import sys

from dsa_compiler.isa.page import isa_page
from dsa_compiler.isa.table import TABLE


def test_every_opcode_has_a_row():
    rows = {line.split("|")[1].strip(): line for line in isa_page().splitlines() if line.startswith("| `")}
    assert set(rows) == {f"`{d.name}`" for d in TABLE}
    assert rows["`load_pad`"] == (
        "| `load_pad` | 0x002 | dst*:l1<br>src:ddr/llb | pad: pads, value: float | dma |  | "
        "Copy into l1 with padding around the source. |"
    )
    assert rows["`img2col`"].startswith(
        "| `img2col` | 0x02c | dst*:l0a rank 2<br>src~:l1 rank 3 | kernel: ints[2], stride: ints[2], "
        "dilation: ints[2], pad: ints[4], zero_point: int | img2col | img2col_move |"
    )
    assert "src0:l1/l0c int32/int16/int8/uint8/bool" in rows["`bitwise_not`"]
    assert "zero_a?: int" in rows["`depthwise`"]
    assert "reduce: row/column/plane" in rows["`reduce_sum`"]


def test_rows_have_seven_columns():
    for line in isa_page().splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8


def test_the_module_prints_it():
    shown = subprocess.run([sys.executable, "-m", "dsa_compiler.isa.page"], capture_output=True, text=True, check=True)
    assert shown.stdout == isa_page()
