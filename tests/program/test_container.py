import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.program.check import check_tables
from dsa_compiler.program.container import load, save
from dsa_compiler.program.listing import listing
from dsa_compiler.program.tables import Binding, HostStep
from tests.program.conftest import random_program


def test_a_program_comes_back_the_same(program, tmp_path):
    save(program, tmp_path / "model.npu")
    again = load(tmp_path / "model.npu")
    assert listing(again) == listing(program)
    assert again.host_steps == program.host_steps
    assert again.target == program.target and again.info == program.info
    for one, two in zip(program.constants, again.constants, strict=True):
        assert one.address == two.address and (one.data == two.data).all()
    assert (again.entries == program.entries).all() and (again.operands == program.operands).all()


def test_the_same_program_gives_the_same_bytes(program, tmp_path):
    save(program, tmp_path / "a.npu")
    save(program, tmp_path / "b.npu")
    assert (tmp_path / "a.npu").read_bytes() == (tmp_path / "b.npu").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npu", "b.npu"]


def test_loading_imports_no_tvm(program, tmp_path):
    save(program, tmp_path / "model.npu")
    code = (
        "import sys; from dsa_compiler.program.container import load; load(sys.argv[1]); "
        "assert not [m for m in sys.modules if m.startswith(('tvm', 'onnx'))]"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.npu")], check=True)


def test_saving_where_nothing_can_be_written(program, tmp_path):
    with pytest.raises(
        UserError, match=r"\[save\] cannot write .*model.npu: No such file or directory; choose another"
    ):
        save(program, tmp_path / "nowhere" / "model.npu")


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, contents, extra=()):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, data in [*contents.items(), *extra]:
            archive.writestr(name, data)


def rewrite(path, change, resign=True):
    """Change the members of a container; with `resign` the manifest's checksums follow."""
    contents = members(path)
    manifest = json.loads(contents["manifest.json"])
    result = change(contents, manifest)
    if resign:
        manifest["members"] = {
            n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
            for n, d in contents.items()
            if n != "manifest.json"
        }
    contents["manifest.json"] = json.dumps(manifest).encode()
    write(path, contents, result or ())


@pytest.fixture
def path(program, tmp_path):
    save(program, tmp_path / "model.npu")
    return tmp_path / "model.npu"


def refuse(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"[{path}]")


def test_no_such_file(tmp_path):
    refuse(tmp_path / "none.npu", "cannot read it: No such file or directory; give a .npu file")


def test_not_a_container(tmp_path):
    (tmp_path / "x.npu").write_bytes(b"hello" * 100)
    refuse(tmp_path / "x.npu", "not a whole .npu file: File is not a zip file; compile the model again")


def test_truncated(path):
    data = path.read_bytes()
    for part in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:part])
        refuse(path, "not a whole .npu file")


def test_any_damaged_byte_is_noticed_or_without_effect(path, program):
    data, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for place in rng.integers(0, len(data), 150):
        broken = bytearray(data)
        broken[place] ^= 0x55
        path.write_bytes(broken)
        try:
            assert listing(load(path)) == listing(program)
        except UserError:
            refused += 1
    assert refused > 100


def test_a_newer_version(path):
    rewrite(path, lambda c, m: m.update(version=3))
    refuse(path, "it has format version 3, and this dsac reads up to 2; use a newer dsac")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, m: m.update(version="x"), "its version is 'x'"),
        (lambda c, m: m.update(format="zip"), "its manifest is not that of a .npu file"),
        (lambda c, m: m.pop("target"), "its manifest is not well formed: 'target'"),
        (lambda c, m: m["target"].pop("clusters"), "clusters is missing"),
        (lambda c, m: m.update(macs=-1), "-1 is no count"),
        (lambda c, m: m.update(inputs=[["x", 0, [1 << 40, 1 << 40], "float32"]]), "tensor 'x' lies at .* outside"),
        (lambda c, m: m.update(inputs=[["x", 0, [2], "float99"]]), "is no tensor"),
        (lambda c, m: m.update(inputs=[[3]]), "its manifest is not well formed"),
        (lambda c, m: m.update(inputs=[["x", 0, [-2], "float32"]]), "-2 is no count"),
        (lambda c, m: m.update(ddr_bytes=1 << 60), "the program uses .* bytes of ddr, and the part has"),
        (lambda c, m: m["constants"][0].__setitem__(0, 1 << 50), "a constant lies at ddr"),
        (lambda c, m: m["constants"].pop(), "weights.bin is longer than the constants"),
        (lambda c, m: m["constants"].append([0, 5]), "weights.bin is shorter than the constants"),
        (lambda c, m: m["host_steps"][0].update(op=3), "host step 0 has no name"),
        (lambda c, m: m["host_steps"].append(m["host_steps"][0]), "member 'host/1.onnx' is missing"),
        (lambda c, m: c.update({"names.json": b"{"}), "member 'names.json' is not valid JSON"),
        (lambda c, m: c.update({"names.json": b"[" * 100000}), "member 'names.json' is not valid JSON"),
        (lambda c, m: c.update({"names.json": b'{"nodes": [1], "kernels": []}'}), "names.json is no list of names"),
        (lambda c, m: c.update({"attrs.json": b"[3]"}), "attrs.json is no list of dictionaries"),
        (lambda c, m: c.update({"entries.npy": b"\x93NUMPY"}), "member 'entries.npy' is no table"),
        (lambda c, m: c.pop("flags.npy") and None, "member 'flags.npy' is missing"),
        (lambda c, m: [("../../etc/passwd", b"x")], r"member '../../etc/passwd' does not belong in a .npu file"),
        (lambda c, m: [("weights.bin", b"x")], "member 'weights.bin' is there twice"),
    ],
)
def test_a_hostile_file(path, change, message):
    def only_extra(contents, manifest):
        result = change(contents, manifest)
        return result if isinstance(result, list) and result and isinstance(result[0], tuple) else None

    rewrite(path, only_extra)
    refuse(path, message)


def test_a_member_that_is_not_the_manifests(path):
    rewrite(path, lambda c, m: c.update({"weights.bin": bytes(170)}), resign=False)
    refuse(path, "member 'weights.bin' does not have the checksum that the manifest gives")
    rewrite(path, lambda c, m: c.update({"weights.bin": bytes(171)}), resign=False)
    refuse(path, "member 'weights.bin' has 171 bytes, not 170")
    rewrite(path, lambda c, m: m["members"].pop("weights.bin") and None, resign=False)
    refuse(path, "its manifest lists other members than it has")
    rewrite(path, lambda c, m: m["members"].update({"weights.bin": 3}), resign=False)
    refuse(path, "its manifest lists a member without size and checksum")


def test_a_zip_bomb(path):
    rewrite(path, lambda c, m: c.update({"weights.bin": bytes(1 << 25)}))
    refuse(path, "member 'weights.bin' unpacks from [0-9]+ to 33554432 bytes")


def test_a_huge_manifest(path, monkeypatch):
    monkeypatch.setattr("dsa_compiler.program.container.MAX_MANIFEST_BYTES", 100)
    refuse(path, "member 'manifest.json' has [0-9]+ bytes, more than 100")


def test_too_many_members(path, monkeypatch):
    monkeypatch.setattr("dsa_compiler.program.container.MAX_MEMBERS", 3)
    refuse(path, "it has [0-9]+ members")


def test_an_encrypted_member(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)
    refuse(path, "member 'manifest.json' is encrypted")


def npy(table):
    stream = io.BytesIO()
    np.save(stream, table, allow_pickle=table.dtype == object)
    return stream.getvalue()


def test_a_pickle_is_never_read(path):
    rewrite(path, lambda c, m: c.update({"entries.npy": npy(np.array([{"a": 1}], object))}))
    refuse(path, "member 'entries.npy' is no table: Object arrays cannot be loaded")


def test_tables_of_another_dtype(path):
    rewrite(path, lambda c, m: c.update({"entries.npy": npy(np.zeros(3))}))
    refuse(path, "table entries has dtype float64 and shape .*, not rows of a program")


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("entries", "opcode", 60000, "entry 5: opcode 60000 is not known"),
        ("entries", "engine", 9, "entry 5: engine is 9, outside 0 to 6"),
        ("entries", "cluster", 4, "entry 5: cluster is 4, outside 0 to 3"),
        ("entries", "core", 100, "entry 5: core is"),
        ("entries", "attrs", 10000, "entry 5: attrs is 10000"),
        ("entries", "operand", 1 << 40, "entry 5: operand is"),
        ("entries", "operand", -1, "entry 5: operand is -1"),
        ("entries", "wait", 1 << 40, "entry 5: wait is"),
        ("entries", "set", 1 << 62, "entry 5: set is"),
        ("entries", "node", 99, "entry 5: node is 99"),
        ("entries", "kernel", -2, "entry 5: kernel is -2"),
        ("entries", "group", -2, "entry 5: group is -2"),
        ("entries", "segment", -1, "entry 5: segment is -1"),
        ("operands", "role", 11, "operand 5: role is 11"),
        ("operands", "scope", 6, "operand 5: scope is 6"),
        ("operands", "dtype", 11, "operand 5: dtype is 11"),
        ("operands", "rank", 4, "operand 5: rank is 4"),
        ("operands", "address", -1, "operand 5: address is -1"),
        ("operands", "extents", 0, "operand 5: extent 0 is 0"),
        ("operands", "strides", -1, "operand 5: stride 0 is -1"),
        ("flags", "kind", 3, "flag 5: kind is 3"),
        ("flags", "source", 7, "flag 5: source is 7"),
        ("flags", "target", 7, "flag 5: target is 7"),
        ("flags", "number", -1, "flag 5: number is -1"),
    ],
)
def test_tables_out_of_range(path, program, table, field, value, message):
    rows = getattr(program, table).copy()
    rows[field][5] = value
    rewrite(path, lambda c, m: c.update({f"{table}.npy": npy(rows)}))
    refuse(path, message)


def test_a_large_program_saves_and_loads_in_seconds(tmp_path):
    save(random_program(4, 20000), tmp_path / "large.npu")
    assert len(load(tmp_path / "large.npu")) == 20000


def test_a_host_step_with_a_negative_segment(path):
    rewrite(path, lambda c, m: m["host_steps"][0].update(segment=-1))
    refuse(path, "-1 is no count")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (Binding("x", 0, (-1,), "int8"),)}, r"tensor 'x' has shape \[-1\]"),
        ({"host_steps": (HostStep(-1, "Nms", "n", (), (), 0, "", b""),)}, "host step Nms has segment -1"),
    ],
)
def test_tables_are_checked_without_a_file_too(program, change, message):
    with pytest.raises(UserError, match=message):
        check_tables(dataclasses.replace(program, **change))
