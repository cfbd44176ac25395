"""What each entry costs by the hardware manual, from its operands and attributes alone.

Written from the manual, not from the compiler's tables: the two accounts are meant to disagree where one
of them is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tests.accountant.runs import Shape, bank_mask, merged_runs, walk_pair, window_bits

NEARNESS = {"ddr": 0, "llb": 1, "l1": 2, "l0a": 3, "l0b": 3, "l0c": 3}
READ_FREE = ("table", "taps")
FLOW_ENGINES = ("load", "store", "prefetch")
CONTROL = ("set", "wait", "barrier", "halt")
_RESULT = ("dst", "acc")


@dataclass
class Cost:
    """Startup with flag costs; work in cycles at full rate, or for a flow bytes, `cap` and the scopes shared."""

    startup: float
    work: float = 0.0
    flow: bool = False
    cap: float = 0.0
    scopes: tuple[str, ...] = ()
    latency: float = 0.0
    banks: int = 0


class Costs:
    """Costs of entries of one part; geometry is counted once for each distinct form."""

    def __init__(self, target: dict[str, Any]) -> None:
        self.target = target
        self.engine, self.memory, self.sync = target["engine"], target["memory"], target["sync"]
        self._counted: dict[tuple, Any] = {}
        l1 = self.memory["l1"]
        self._bank_bits = l1["size"] // l1.get("banks", 1) * 8

    # -- shared pieces

    def burst(self, scope: str) -> int:
        memory = self.memory[scope]
        return memory.get("burst", memory["alignment"])

    def latency(self, operands: list[dict]) -> float:
        return max((self.memory[o["scope"]].get("latency", 0) for o in operands), default=0)

    def flags(self, entry: dict) -> float:
        prices = {
            "core": self.sync["flag_cost"],
            "cluster": self.sync.get("cluster_flag_cost", 0),
            "chip": self.sync.get("chip_flag_cost", 0),
        }
        return sum(prices[f.split(":", 1)[0]] for key in ("waits", "sets") for f in entry.get(key, ()))

    def banks(self, operands: list[dict]) -> int:
        mask = 0
        for operand in operands:
            if operand["scope"] == "l1":
                key = (
                    "bank",
                    operand["address"],
                    tuple(operand["extents"]),
                    tuple(operand["strides"]),
                    operand["dtype"],
                )
                if key not in self._counted:
                    s = Shape(operand)
                    self._counted[key] = int(bank_mask(s.address, s.extents, s.strides, s.bits, self._bank_bits))
                mask |= self._counted[key]
        return mask

    # -- entries

    def of(self, entry: dict) -> Cost:
        engine, op = entry["engine"], entry["op"]
        operands = entry.get("operands", [])
        flags = self.flags(entry)
        if op in CONTROL:
            return Cost(startup=flags + self.control(entry))
        attrs = entry.get("attrs", {})
        if engine in FLOW_ENGINES or engine == "move":
            cost = self.transfer(engine, operands, attrs)
        elif engine == "matrix":
            cost = Cost(self.engine["matrix"]["startup"], self.matrix(operands, attrs))
        elif engine == "vector":
            cost = Cost(self.engine["vector"]["startup"], self.vector(operands, attrs, entry.get("cost", "simple")))
        else:
            scalar = self.engine["scalar"]
            cost = Cost(0.0, scalar["scalar_op"] * attrs.get("ops", 0) + scalar["issue"] * attrs.get("control", 0))
        cost.startup += flags
        cost.banks = self.banks(operands)
        return cost

    def control(self, entry: dict) -> float:
        price = self.engine["scalar"]["issue"] if entry["engine"] == "scalar" else 0.0
        if entry["op"] == "barrier":
            price += self.sync.get(f"{entry.get('attrs', {}).get('scope', 'cluster')}_barrier", 0)
        return price

    # -- transfers

    def transfer(self, engine: str, operands: list[dict], attrs: dict) -> Cost:
        facts = self.engine[engine]
        sides = {o["role"]: o for o in operands}
        ends = [o for o in operands if o["role"] != "index"]
        dst, src = sides["dst"], sides.get("src")
        moved = self.moved(dst, src, sides.get("index"), attrs)
        cap = facts["port_bandwidth"]
        if attrs.get("transpose") and engine == "load":
            cap = min(cap, facts.get("transpose_rate", cap))
        for operand in ends:
            if operand["scope"] not in ("ddr", "llb"):
                cap = min(cap, self.memory[operand["scope"]].get("bandwidth", 0) or cap)
        if engine == "move":
            return Cost(facts["startup"], moved / cap)
        scopes = tuple(sorted({o["scope"] for o in ends if o["scope"] in ("ddr", "llb")}))
        return Cost(facts["startup"], moved, True, cap, scopes, self.latency(ends))

    def moved(self, dst: dict, src: dict | None, index: dict | None, attrs: dict) -> float:
        """Bytes that a transfer moves."""
        to = Shape(dst)
        if src is None:
            return to.elements * to.bits / 8
        if index is not None:
            return self.rows_by_index(dst, src)
        of = Shape(src)
        if "kernel" in attrs:
            return self.window(src, of, dst, to, attrs)
        if attrs.get("transpose"):
            return self.pair(src, of, of, src["scope"], whole_b=True)[0]
        if "pad" in attrs:
            return self.padded(dst, to, src, of, attrs["pad"])
        read, written = self.pair(src, of, to, dst["scope"])
        if of.bits != to.bits:
            return max(read, written)
        return read if self.counted_side(src["scope"], dst["scope"]) == src["scope"] else written

    def counted_side(self, one: str, other: str) -> str:
        """The scope with the larger burst; if equal, the one nearer ddr."""
        return max((one, other), key=lambda scope: (self.burst(scope), -NEARNESS[scope]))

    def pair(self, src: dict, of: Shape, to: Shape, scope: str, whole_b: bool = False) -> tuple[float, float]:
        """Bytes of whole bursts at the source and at the destination of a copy."""
        from_bits, to_bits = self.burst(src["scope"]) * 8, self.burst(scope) * 8
        oa, ob = of.address * 8 % from_bits, to.address * 8 % to_bits
        key = (
            "pair",
            of.extents,
            of.strides,
            of.bits,
            oa,
            from_bits,
            to.extents,
            to.strides,
            to.bits,
            ob,
            to_bits,
            whole_b,
        )
        if key not in self._counted:
            a, b = walk_pair(
                of.extents, of.strides, oa, of.bits, from_bits,
                to.extents, to.strides, ob, to.bits, to_bits, False, whole_b,
            )  # fmt: skip
            self._counted[key] = (a / 8, b / 8)
        return self._counted[key]

    def padded(self, dst: dict, to: Shape, src: dict, of: Shape, pads: list) -> float:
        """The greater of the source's bursts, rows joined where both sides join them, and the destination's bytes.

        The manual speaks of padded loads; a padded store or prefetch pays whole bursts where it writes, as DMA does.
        """
        inner = Shape(dst)
        first = 3 - to.rank
        for axis, (before, after) in enumerate(pads):
            inner.address += before * to.strides[first + axis] // 8
            extents = list(inner.extents)
            extents[first + axis] -= before + after
            inner.extents = tuple(extents)
        read = self.pair(src, of, inner, dst["scope"])[0]
        if dst["scope"] in ("ddr", "llb"):
            return max(read, self.pair(dst, to, to, dst["scope"], whole_b=True)[0])
        return max(read, to.elements * to.bits / 8)

    def rows_by_index(self, dst: dict, src: dict) -> float:
        """Rows gathered from or scattered to the operand in ddr or llb, each at its worst alignment."""
        far, near = (src, dst) if NEARNESS[src["scope"]] <= NEARNESS[dst["scope"]] else (dst, src)
        table, rows = Shape(far), Shape(near)
        if self.counted_side(far["scope"], near["scope"]) == near["scope"]:
            return self.separate_rows(near, rows)
        burst = self.burst(far["scope"])
        stride = table.strides[1] // 8
        grain = math.gcd(table.address, stride, burst)
        return rows.rows * (-(-(rows.row_bytes + burst - grain) // burst)) * burst

    def separate_rows(self, operand: dict, rows: Shape) -> float:
        """Whole bursts of an operand's rows, none joined to the next."""
        burst, total = self.burst(operand["scope"]), 0
        for i in range(rows.extents[0]):
            for j in range(rows.extents[1]):
                at = rows.address + (i * rows.strides[0] + j * rows.strides[1]) // 8
                total += -(-(at + rows.row_bytes) // burst) - at // burst
        return total * burst

    def window(self, src: dict, of: Shape, dst: dict, to: Shape, attrs: dict) -> float:
        """An img2col move; the padded l0a rows are the least."""
        at_source = self.counted_side(src["scope"], dst["scope"]) == src["scope"]
        burst = self.burst(src["scope"] if at_source else dst["scope"]) * 8
        unit = self.memory[dst["scope"]]["alignment"] * 8
        kernel, pad = tuple(attrs["kernel"]), tuple(attrs.get("pad", (0, 0, 0, 0)))
        stride, dilation = tuple(attrs.get("stride", (1, 1))), tuple(attrs.get("dilation", (1, 1)))
        row = -(-of.extents[2] * of.bits * kernel[0] * kernel[1] // unit) * unit
        base = of.address * 8 % burst
        key = ("window", base, of.extents, of.strides, of.bits, kernel, stride, dilation, pad, burst, row, at_source)
        if key not in self._counted:
            bits, pixels = window_bits(
                base, *of.extents, of.strides[0], of.strides[1], of.bits, kernel, stride, dilation, pad, burst, row,
                not at_source,
            )  # fmt: skip
            self._counted[key] = max(bits, pixels * row) / 8
        return self._counted[key]

    # -- computation

    def matrix(self, operands: list[dict], attrs: dict) -> float:
        roles = {o["role"]: o for o in operands}
        m, n = (roles.get("dst") or roles["acc"])["extents"]
        k = roles["lhs"]["extents"][-1]
        um, un, uk = self.engine["matrix"]["unit"][roles["lhs"]["dtype"]]
        return -(-m // um) * -(-n // un) * -(-k // (2 * uk if attrs.get("sparse") else uk))

    def vector(self, operands: list[dict], attrs: dict, cost: str) -> float:
        facts = self.engine["vector"]
        width, overhead = facts["width"], facts["row_overhead"]
        shapes = {o["role"]: Shape(o) for o in operands if o["role"] not in READ_FREE}
        if "taps" in attrs:
            return self.windowed(shapes, attrs)
        result = next(shapes[r] for r in _RESULT if r in shapes)
        source = shapes.get("src", result)
        lanes = width * 8 / source.bits
        if cost == "stage" and "src2" in shapes:
            vectors = sum(s.rows * math.ceil(s.row_bytes / width) for s in (shapes["src"], shapes["src2"]))
            return max(s.rows for s in shapes.values()) * overhead + vectors * 2 * math.log2(lanes)
        if "axis" in attrs and cost == "scan":
            each = math.log2(lanes)
        else:
            each = {"slide": facts["cost"]["gather"] / 4, "stage": 2}.get(cost) or facts["cost"][cost]
        total = max(s.rows * (overhead + math.ceil(s.row_bytes / width) * each) for s in shapes.values())
        if attrs.get("reduce") == "row":
            total += source.rows * math.log2(lanes)
        return total

    def windowed(self, shapes: dict[str, Shape], attrs: dict) -> float:
        """Pooling and depthwise: each tap is a simple operation over each contiguous run of the result."""
        facts = self.engine["vector"]
        result = next(shapes[r] for r in _RESULT if r in shapes)
        widest = max(s.bits for s in shapes.values())
        key = ("runs", result.extents, result.strides, result.bits, widest)
        if key not in self._counted:
            lengths = merged_runs(result.extents, result.strides, result.bits)
            vectors = -(-(lengths * widest) // (8 * facts["width"]))
            self._counted[key] = float((facts["row_overhead"] + vectors * facts["cost"]["simple"]).sum())
        return attrs["taps"] * self._counted[key]
