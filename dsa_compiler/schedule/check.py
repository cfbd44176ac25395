"""Whether a layer schedule that someone wrote can be obeyed: each reason why not is an error that says where."""

from __future__ import annotations

from dsa_compiler.errors import UserError
from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.images import batch_of, divide
from dsa_compiler.schedule.layer_schedule import CHIP, Group, LayerSchedule
from dsa_compiler.schedule.search import needs
from dsa_compiler.target import Target


def check_schedule(schedule: LayerSchedule, graph: LayerGraph, target: Target) -> None:
    """Raises `UserError` if `schedule` cannot be obeyed for `graph` on `target`; places in llb are not looked at."""
    _check_shares(schedule, graph, target)
    _check_layers(schedule, graph)
    for number, group in enumerate(schedule.groups):
        _check_images(number, group, schedule, graph)
    for tensor, scope in schedule.scopes.items():
        _check_scope(tensor, scope, schedule, graph, target)
    _check_order(schedule, graph)


def refused(problem: str, action: str) -> UserError:
    """The error of a schedule that cannot be obeyed."""
    return UserError(problem, where="schedule", action=action)


def _check_shares(schedule: LayerSchedule, graph: LayerGraph, target: Target) -> None:
    images = batch_of(graph)
    if schedule.images != images:
        raise refused(f"it is for {schedule.images} images, the model has {images}", "write one for this batch")
    if not 1 <= len(schedule.shares) <= target.clusters:
        problem = f"shares for {len(schedule.shares)} clusters, {target.name} has {target.clusters}"
        raise refused(problem, "give each cluster its number of images")
    if min(schedule.shares) < 1 or sum(schedule.shares) != images:
        raise refused(f"shares {list(schedule.shares)} are not {images} images", "give every cluster 1 image or more")


def _check_layers(schedule: LayerSchedule, graph: LayerGraph) -> None:
    """Groups take all layers, one after another."""
    names = [layer.name for layer in graph.layers]
    after = 0
    for number, group in enumerate(schedule.groups):
        if not 0 <= group.first <= group.last < len(names):
            problem = f"group {number} has layers {group.first} to {group.last}, the network {len(names)}"
            raise refused(problem, "count layers from 0 on")
        if group.first > after:
            raise _missing(names[after], number)
        if group.first < after:
            raise _twice(names[group.first], number)
        after = group.last + 1
    if after < len(names):
        raise _missing(names[after], len(schedule.groups))


def _missing(layer: str, group: int) -> UserError:
    return refused(f"layer {layer!r} is in no group", f"add it before group {group}, in the network's order")


def _twice(layer: str, group: int) -> UserError:
    return refused(f"layer {layer!r} in group {group} is out of order or in a group before", "name every layer once")


def check_names(groups: list[list[str]], graph: LayerGraph) -> None:
    """Raises `UserError` unless the layers' names, group after group, are those of the network in its order."""
    names = [layer.name for layer in graph.layers]
    known, place = set(names), 0
    for number, group in enumerate(groups):
        for name in group:
            if name not in known:
                raise refused(f"there is no layer {name!r} (group {number})", "use the names that dsac schedule prints")
            if place < len(names) and name == names[place]:
                place += 1
                continue
            raise _twice(name, number) if name in names[:place] else _missing(names[place], number)
    if place < len(names):
        raise _missing(names[place], len(groups))


def _check_images(number: int, group: Group, schedule: LayerSchedule, graph: LayerGraph) -> None:
    if group.side and group.images == CHIP:
        raise refused(f"group {number} works on the chip beside others", "give it images, or leave side out")
    if group.images == CHIP:
        return
    if not 1 <= group.images <= schedule.most:
        problem = f"group {number} has {group.images} images an instance, a cluster's share is {schedule.most}"
        raise refused(problem, f"use 1 to {schedule.most}, or 'chip'")
    for place in group.layers:
        layer = graph.layers[place]
        if divide(layer, graph, schedule.images) is None:
            problem = f"layer {layer.name!r} in group {number} does not work on each image alone"
            raise refused(problem, "put it into a group of its own with images 'chip'")


def _check_scope(tensor: str, scope: str, schedule: LayerSchedule, graph: LayerGraph, target: Target) -> None:
    if tensor not in graph.tensors:
        raise refused(f"there is no tensor {tensor!r}", "use the names that dsac schedule prints")
    if scope != "llb":
        raise refused(f"tensor {tensor!r} is to be in {scope!r}", "use 'llb', or leave it out: then it is in ddr")
    if "llb" not in target.memory:
        raise refused(f"tensor {tensor!r} is to be in llb, which {target.name} lacks", "leave it out: it is in ddr")
    role = graph.tensors[tensor].role
    if role != "activation":
        raise refused(f"tensor {tensor!r} cannot be in llb: it is an {role}".replace("an con", "a con"), "leave it out")
    for number, group in enumerate(schedule.groups):
        for place in group.layers if group.images == CHIP else ():
            layer = graph.layers[place]
            if any(v.tensor == tensor for v in (*layer.inputs, *layer.outputs)):
                problem = f"tensor {tensor!r} cannot be in llb: layer {layer.name!r} (group {number}) runs on the chip"
                raise refused(problem, "leave it out, or give the group images")


def _check_order(schedule: LayerSchedule, graph: LayerGraph) -> None:
    """Instances cover every image once, and read nothing before it is written."""
    done = [0] * len(schedule.groups)
    read = needs(graph, schedule.groups)
    for place, instance in enumerate(schedule.order):
        if not 0 <= instance.group < len(done):
            raise refused(f"place {place} of the order has group {instance.group}", f"use 0 to {len(done) - 1}")
        group, low = schedule.groups[instance.group], done[instance.group]
        most = schedule.most if group.images == CHIP else min(schedule.most, low + group.images)
        what = f"place {place} of the order, group {instance.group} on images {instance.low} to {instance.high},"
        if instance.low != low or not low < instance.high <= most or (group.images == CHIP and instance.high != most):
            raise refused(f"{what} does not fit", f"continue the group with images {low} to {most}")
        for before in sorted(read[instance.group]):
            if done[before] < instance.high:
                problem = f"{what} reads before group {before} has written: it has come to image {done[before]}"
                raise refused(problem, f"put instances of group {before} before it")
        done[instance.group] = instance.high
    for number, count in enumerate(done):
        if count < schedule.most:
            problem = f"the order ends with images {count} to {schedule.most} of group {number} left"
            raise refused(problem, "add an instance")
