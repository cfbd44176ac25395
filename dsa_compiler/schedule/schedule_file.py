"""A layer schedule as JSON that a person can edit: layers and tensors by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsa_compiler.errors import UserError
from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.check import check_names, check_schedule, refused
from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule
from dsa_compiler.schedule.order import order_instances
from dsa_compiler.schedule.search import needs
from dsa_compiler.target import Target

FORMAT, VERSION = "dsac layer schedule", 1


def plain_schedule(schedule: LayerSchedule, graph: LayerGraph) -> dict[str, Any]:
    """The schedule as JSON values; `parse_schedule` reads it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "images": schedule.images,
        "shares": list(schedule.shares),
        "groups": [
            {
                "layers": [graph.layers[n].name for n in group.layers],
                "images": "chip" if group.images == CHIP else group.images,
                "side": group.side,
            }
            for group in schedule.groups
        ],
        "order": [{"group": i.group, "images": [i.low, i.high]} for i in schedule.order],
        "scopes": dict(schedule.scopes),
        "cycles": schedule.cycles,
    }


def read_schedule(path: Path, graph: LayerGraph, target: Target) -> LayerSchedule:
    """The schedule in a file. Raises `UserError` if it cannot be read or obeyed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read it: {error.strerror}", where=str(path), action="give a schedule's file"
        ) from error
    except ValueError as error:
        raise UserError(f"it is no JSON: {error}", where=str(path), action="write one with dsac schedule -o") from error
    return parse_schedule(value, graph, target)


def parse_schedule(value: Any, graph: LayerGraph, target: Target) -> LayerSchedule:
    """The schedule in JSON values; without `order` instances follow each other depth first.

    Raises `UserError` if it is malformed or cannot be obeyed.
    """
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise refused(f"it is no {FORMAT!r}", "write one with dsac schedule -o")
    if value.get("version") != VERSION:
        raise refused(f"version {value.get('version')!r} of the format", f"this dsac reads version {VERSION}")
    shares = tuple(_numbers(value, "shares"))
    groups = _groups(value, graph)
    scopes = value.get("scopes", {})
    if not isinstance(scopes, Mapping) or not all(isinstance(s, str) for s in scopes.values()):
        raise _malformed("scopes", "an object of tensors and memories")
    kept = {t: s for t, s in scopes.items() if s != "ddr"}
    order = _order(value["order"]) if "order" in value else None
    if order is None and shares:
        order = order_instances(groups, needs(graph, groups), max(shares))
    cycles = value.get("cycles", 0.0)
    schedule = LayerSchedule(
        _number(value.get("images"), "images"), shares, groups, kept, order or (),
        float(cycles) if isinstance(cycles, (int, float)) else 0.0,
    )  # fmt: skip
    check_schedule(schedule, graph, target)
    return schedule


def _groups(value: Mapping[str, Any], graph: LayerGraph) -> tuple[Group, ...]:
    rows = value.get("groups")
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise _malformed("groups", "a list of objects")
    names = [list(row.get("layers", ())) for row in rows]
    if not all(own and all(isinstance(n, str) for n in own) for own in names):
        raise _malformed("groups", "objects with the names of one layer or more in layers")
    check_names(names, graph)
    groups: list[Group] = []
    first = 0
    for row, own in zip(rows, names, strict=True):
        images = row.get("images")
        count = CHIP if images == "chip" else _number(images, "images of a group")
        if images != "chip" and count < 1:
            raise refused(f"group {len(groups)} has {count} images an instance", "use 1 or more, or 'chip'")
        side = row.get("side", False)
        if not isinstance(side, bool):
            raise _malformed("side of a group", "true or false")
        groups.append(Group(first, first + len(own) - 1, count, side))
        first += len(own)
    return tuple(groups)


def _order(rows: Any) -> tuple[Instance, ...]:
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise _malformed("order", "a list of objects")
    result = []
    for row in rows:
        images = _numbers(row, "images")
        if len(images) != 2:
            raise _malformed("images of an instance", "[first, behind the last]")
        result.append(Instance(_number(row.get("group"), "group of an instance"), *images))
    return tuple(result)


def _numbers(row: Mapping[str, Any], key: str) -> list[int]:
    values = row.get(key)
    if not isinstance(values, list):
        raise _malformed(key, "a list of whole numbers")
    return [_number(v, key) for v in values]


def _number(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _malformed(what, "a whole number")
    return value


def _malformed(what: str, wanted: str) -> UserError:
    return refused(f"{what} is not {wanted}", "see what dsac schedule -o writes")
