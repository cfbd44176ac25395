"""Schedules as files: what is written is read again; what cannot be obeyed is refused with the place."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import dsa_compiler as dsac
import models
from dsa_compiler.cli import main
from dsa_compiler.errors import UserError
from dsa_compiler.options import CompileOptions
from dsa_compiler.schedule.check import check_schedule
from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule
from dsa_compiler.schedule.schedule_file import parse_schedule, plain_schedule, read_schedule
from dsa_compiler.schedule.search import find_schedule, gather_facts
from dsa_compiler.scheduling import given_schedule, layer_by_layer, plan_schedule, refused_layers
from dsa_compiler.target import Target
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs
from tests.lower.parts import changed, part
from tests.schedule.graphs import chain

V1 = part("npu-v1")
GRAPH = chain(*[(8, 64, 32)] * 6)
"""Layers layer0 to layer4; t0 is the input, t5 the output; an image of a tensor takes 4 KiB."""

Edit = Callable[[dict[str, Any]], Any]


def plain() -> dict[str, Any]:
    """Three groups: one image, two images, the chip; the order is a a b c."""
    return {
        "format": "dsac layer schedule",
        "version": 1,
        "images": 8,
        "shares": [2, 2, 2, 2],
        "groups": [
            {"layers": ["layer0", "layer1"], "images": 1, "side": False},
            {"layers": ["layer2"], "images": 2, "side": True},
            {"layers": ["layer3", "layer4"], "images": "chip", "side": False},
        ],
        "order": [
            {"group": 0, "images": [0, 1]}, {"group": 0, "images": [1, 2]}, {"group": 1, "images": [0, 2]},
            {"group": 2, "images": [0, 2]},
        ],
        "scopes": {"t1": "llb", "t2": "llb"},
    }  # fmt: skip


def read(edit: Edit | None = None, target: Target = V1) -> LayerSchedule:
    value = plain()
    if edit is not None:
        edit(value)
    return parse_schedule(value, GRAPH, target)


def test_a_file_is_read() -> None:
    schedule = read()
    assert schedule.groups == (Group(0, 1, 1), Group(2, 2, 2, True), Group(3, 4, CHIP))
    assert schedule.order == (Instance(0, 0, 1), Instance(0, 1, 2), Instance(1, 0, 2), Instance(2, 0, 2))
    assert schedule.scopes == {"t1": "llb", "t2": "llb"} and schedule.shares == (2, 2, 2, 2)


def test_what_is_written_is_read() -> None:
    facts = gather_facts(GRAPH, V1, frozenset())
    assert facts is not None
    found = find_schedule(facts)
    assert parse_schedule(json.loads(json.dumps(plain_schedule(found, GRAPH))), GRAPH, V1) == found


def test_an_order_is_not_needed() -> None:
    assert read(lambda v: v.pop("order")) == read()


def test_a_tensor_may_say_that_it_is_in_ddr() -> None:
    assert read(lambda v: v["scopes"].update(t1="ddr")).scopes == {"t2": "llb"}


def group(number: int, **fields: Any) -> Edit:
    return lambda v: v["groups"][number].update(fields)


def put(key: str, value: Any) -> Edit:
    return lambda v: v.update({key: value})


REFUSED: dict[str, tuple[Edit, str]] = {
    "no schedule": (put("format", "a list"), "it is no 'dsac layer schedule'; write one with dsac schedule -o"),
    "another version": (put("version", 2), "version 2 of the format; this dsac reads version 1"),
    "shares of no numbers": (put("shares", 2), "shares is not a list of whole numbers"),
    "images of no number": (put("images", "8"), "images is not a whole number"),
    "groups of no objects": (put("groups", ["layer0"]), "groups is not a list of objects"),
    "a group without layers": (group(1, layers=[]), "groups is not objects with the names of one layer or more"),
    "scopes of no object": (put("scopes", ["t1"]), "scopes is not an object of tensors and memories"),
    "order of no objects": (put("order", [0, 1]), "order is not a list of objects"),
    "an instance of three numbers": (
        lambda v: v["order"][0].update(images=[0, 1, 2]), "images of an instance is not [first, behind the last]"),
    "a side that is no truth": (group(0, side=1), "side of a group is not true or false"),
    "another batch": (put("images", 4), "it is for 4 images, the model has 8; write one for this batch"),
    "too many clusters": (put("shares", [2, 2, 2, 1, 1]), "shares for 5 clusters, npu-v1 has 4"),
    "shares of another sum": (put("shares", [2, 2, 2, 1]), "shares [2, 2, 2, 1] are not 8 images"),
    "an empty share": (put("shares", [4, 4, 0]), "shares [4, 4, 0] are not 8 images; give every cluster 1 image"),
    "an unknown layer": (group(1, layers=["conv7"]), "there is no layer 'conv7' (group 1); use the names"),
    "a layer twice": (
        group(1, layers=["layer1", "layer2"]), "layer 'layer1' in group 1 is out of order or in a group before"),
    "a gap": (group(0, layers=["layer0"]), "layer 'layer1' is in no group; add it before group 1"),
    "a gap at the end": (group(2, layers=["layer3"]), "layer 'layer4' is in no group; add it before group 3"),
    "no images": (group(0, images=0), "group 0 has 0 images an instance; use 1 or more, or 'chip'"),
    "negative images": (group(0, images=-1), "group 0 has -1 images an instance"),
    "more images than a share": (
        group(0, images=3), "group 0 has 3 images an instance, a cluster's share is 2; use 1 to 2, or 'chip'"),
    "beside others on the chip": (
        group(2, side=True), "group 2 works on the chip beside others; give it images, or leave side out"),
    "an unknown tensor": (lambda v: v["scopes"].update(t9="llb"), "there is no tensor 't9'; use the names"),
    "another memory": (lambda v: v["scopes"].update(t1="l1"), "tensor 't1' is to be in 'l1'; use 'llb', or leave"),
    "an input": (lambda v: v["scopes"].update(t0="llb"), "tensor 't0' cannot be in llb: it is an input; leave it out"),
    "a tensor of the chip": (
        lambda v: v["scopes"].update(t3="llb"),
        "tensor 't3' cannot be in llb: layer 'layer3' (group 2) runs on the chip; leave it out, or give the group"),
    "a group that is not there": (
        lambda v: v["order"][0].update(group=3), "place 0 of the order has group 3; use 0 to 2"),
    "images that do not follow": (
        lambda v: v["order"][1].update(images=[0, 1]),
        "place 1 of the order, group 0 on images 0 to 1, does not fit; continue the group with images 1 to 2"),
    "more images than the group takes": (
        lambda v: v["order"][0].update(images=[0, 2]), "group 0 on images 0 to 2, does not fit"),
    "part of the chip's": (lambda v: v["order"][3].update(images=[0, 1]), "group 2 on images 0 to 1, does not fit"),
    "reads before written": (
        lambda v: v["order"].insert(1, v["order"].pop(2)),
        "place 1 of the order, group 1 on images 0 to 2, reads before group 0 has written: it has come to image 1; "
        "put instances of group 0 before it"),
    "images left": (lambda v: v["order"].pop(), "the order ends with images 0 to 2 of group 2 left; add an instance"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_obeyed_says_where(name: str) -> None:
    edit, text = REFUSED[name]
    with pytest.raises(UserError, match=r"^\[schedule\] .*" + re.escape(text)):
        read(edit)


def test_a_layer_that_mixes_images_needs_the_chip() -> None:
    mixing = replace(GRAPH.layers[2], calls=(replace(GRAPH.layers[2].calls[0], op="cumsum"),))
    graph = replace(GRAPH, layers=(*GRAPH.layers[:2], mixing, *GRAPH.layers[3:]))
    with pytest.raises(UserError, match="layer 'layer2' in group 1 does not work on each image alone; put it into a"):
        parse_schedule(plain(), graph, V1)


def test_a_part_without_an_llb() -> None:
    with pytest.raises(UserError, match="tensor 't1' is to be in llb, which npu-edge lacks; leave it out"):
        read(put("shares", [8]), part("npu-edge"))


def test_a_constant_stays_where_it_is() -> None:
    tensor = replace(GRAPH.tensors["t1"], role="constant", value=np.zeros((8, 64, 32), np.float16))
    graph = replace(GRAPH, tensors={**GRAPH.tensors, "t1": tensor})
    with pytest.raises(UserError, match="tensor 't1' cannot be in llb: it is a constant"):
        check_schedule(read(), graph, V1)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ((Group(0, 1, 1), Group(3, 4, 1)), "layer 'layer2' is in no group; add it before group 1"),
        ((Group(0, 2, 1), Group(2, 4, 1)), "layer 'layer2' in group 1 is out of order or in a group before"),
        ((Group(0, 3, 1),), "layer 'layer4' is in no group; add it before group 1"),
        ((Group(0, 5, 1),), "group 0 has layers 0 to 5, the network 5; count layers from 0 on"),
    ],
)
def test_objects_are_checked_too(groups: tuple[Group, ...], text: str) -> None:
    with pytest.raises(UserError, match=text):
        given_schedule(replace(read(), groups=groups), GRAPH, V1)


def test_too_little_llb() -> None:
    small = changed(V1, **{"memory.llb.size": 8 << 10})
    with pytest.raises(UserError, match=r"it needs \d+ bytes of llb at its peak, npu-v1 has 8192; use fewer images"):
        given_schedule(read(), GRAPH, small)
    assert given_schedule(read(), GRAPH, V1).llb.size == 12 << 10


def test_layers_that_a_cluster_cannot_carry() -> None:
    assert str(refused_layers({"b", "a"})) == (
        "[schedule] no kernel for the cores of one cluster carries a, b; put each into a group with images 'chip'"
    )


@pytest.mark.parametrize(
    ("text", "message"), [("{", "it is no JSON"), (None, "cannot read it"), ("[]", "it is no 'dsac layer schedule'")]
)
def test_files_that_are_none(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_schedule(path, GRAPH, V1)


def test_layer_by_layer_is_a_schedule() -> None:
    for target, shares in ((V1, (2, 2, 2, 2)), (part("npu-edge"), (8,))):
        schedule = layer_by_layer(GRAPH, target)
        assert schedule.shares == shares
        check_schedule(schedule, GRAPH, target)


# ---- compiled ------------------------------------------------------------------------------------------------
def test_a_model_obeys_an_edited_schedule(tmp_path: Path) -> None:
    """Groups cut and one tensor given up to ddr; by file and as an object; the values stay right."""
    model = models.build("tiny_cnn", batch=5)
    options = CompileOptions(precision="float16")
    plan = plan_schedule(model, "npu-v2", options)
    value = plan.plain()
    names = [name for each in value["groups"] for name in each["layers"]]
    value["groups"] = [
        {"layers": names[:3], "images": 1}, {"layers": names[3:7], "images": 3, "side": True},
        {"layers": names[7:], "images": "chip"},
    ]  # fmt: skip
    value.pop("order")
    chip = {v.tensor for layer in plan.graph.layers[7:] for v in (*layer.inputs, *layer.outputs)}
    value["scopes"] = {t: s for t, s in value["scopes"].items() if t not in chip}
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(value))
    given = dsac.compile(model, "npu-v2", options=replace(options, schedule=path))
    schedule = parse_schedule(value, plan.graph, plan.target)
    again = dsac.compile(model, "npu-v2", options=replace(options, schedule=schedule))
    assert given.report["schedule"]["images_an_instance"] == [1, 3, "chip"]
    assert np.array_equal(given.program.entries, again.program.entries)
    feeds = models.sample_inputs(model, seed=1)
    for found in compare(given.run(feeds), reference_outputs(model, feeds)):
        assert found.within(TOLERANCES["float16"]), found
    assert (
        given.report["ddr_bytes_read"]
        > dsac.compile(model, "npu-v2", options=replace(options, graph_schedule="llb")).report["ddr_bytes_read"]
    )


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge"])
def test_a_model_without_a_schedule_of_use_has_one_all_the_same(target: str) -> None:
    model = models.build("tiny_cnn", batch=1)
    plan = plan_schedule(model, target, CompileOptions())
    assert plan.schedule.scopes == {} and plan.llb_peak_bytes() == 0
    executable = dsac.compile(model, target, options=CompileOptions(schedule=plan.schedule))
    feeds = models.sample_inputs(model, seed=1)
    assert compare(executable.run(feeds), reference_outputs(model, feeds))[0].within(TOLERANCES["float32"])


def test_the_command_shows_writes_and_obeys(tmp_path: Path) -> None:
    model, file = tmp_path / "m.onnx", tmp_path / "s.json"
    onnx.save(models.build("tiny_cnn", batch=8), model)
    arguments = [str(model), "--target", "npu-v1", "--precision", "float16"]
    shown = CliRunner().invoke(main, ["schedule", *arguments, "-o", str(file)])
    assert shown.exit_code == 0, shown.output
    value = json.loads(file.read_text())
    for text in (
        "8 images, 2 + 2 + 2 + 2 by cluster", "group 0: 2 images an instance", "cycles expected", "0[0:2]",
        f"{value['llb_peak_bytes']:,} bytes at most", *value["groups"][0]["layers"], *value["scopes"],
    ):  # fmt: skip
        assert text in shown.output
    as_json = CliRunner().invoke(main, ["schedule", *arguments, "--schedule", str(file), "--json"])
    assert json.loads(as_json.stdout) == value
    obeyed = CliRunner().invoke(main, ["compile", *arguments, "--schedule", str(file)])
    assert obeyed.exit_code == 0 and re.search(r"schedule +1 group of 2 images an instance, 1 instance,", obeyed.stdout)
    plainly = CliRunner().invoke(main, ["compile", *arguments])
    assert re.search(r"schedule +layer by layer", plainly.stdout)
    edited = copy.deepcopy(value)
    edited["groups"][0]["images"] = 9
    file.write_text(json.dumps(edited))
    refused = CliRunner().invoke(main, ["compile", *arguments, "--schedule", str(file)])
    assert refused.exit_code == 2 and "error: [schedule] group 0 has 9 images an instance" in refused.output
