"""torch.export programs from anywhere: read without executing, refused where loading would execute."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hydrapress.artifacts import ExportedModel, Precision, TensorSpec
from hydrapress.errors import ModelError
from hydrapress.files import program_archive, program_file

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)).eval()
    program = torch.export.export(
        module, (torch.randn(2, 1, 6, 6),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(program, path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(f"m/{name}", data)
    return path


def changed(whole: Path, folder: Path, member: str, change: Callable[[Any], None]) -> Path:
    """Change the JSON of one member."""
    files = members(whole)
    value = json.loads(files[member])
    change(value)
    return pack(folder / "changed.pt2", files | {member: json.dumps(value).encode()})


def first_node(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"][0]


def batch_of(program: Any) -> Any:
    return program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]["as_expr"]


def call_signature(program: Any) -> Any:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def test_the_file_tells_what_it_takes_and_gives(whole: Path) -> None:
    opened = ExportedModel.open(whole)
    assert opened.signature.inputs == (TensorSpec("input", "float32", (None, 1, 6, 6)),)
    assert opened.signature.outputs[0].shape == (None, 3)
    assert opened.precision is Precision.FLOAT32
    assert opened.batch_sizes == ()


def test_parameters_and_buffers_are_read_by_name(whole: Path) -> None:
    tensors = ExportedModel.open(whole).read_tensors()
    state = torch.export.load(str(whole)).state_dict
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name].values, tensor.detach().numpy())


def test_the_loaded_program_computes_the_same(whole: Path) -> None:
    given = torch.randn(5, 1, 6, 6)
    expected = torch.export.load(str(whole)).module()(given)
    torch.testing.assert_close(program_file.load_program(whole).module()(given), expected, rtol=0, atol=0)


class Branching(nn.Module):
    """Calls parts of its graph: a branch, and a block without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scaled = x * 2
        chosen: torch.Tensor = torch.cond(x.sum() > 0, torch.sin, torch.cos, (scaled,))
        return chosen + x.shape[0]


def test_parts_of_the_graph_that_it_calls_are_loaded(tmp_path: Path) -> None:
    module = Branching().eval()
    shapes = ({0: torch.export.Dim("b")},)
    torch.export.save(
        torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=shapes), tmp_path / "m.pt2"
    )
    loaded = program_file.load_program(tmp_path / "m.pt2").module()
    for sample in (torch.ones(3, 3), -torch.ones(4, 3)):
        torch.testing.assert_close(loaded(sample), module(sample))


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_half_programs_are_read(tmp_path: Path, dtype: torch.dtype, precision: str) -> None:
    module = nn.Linear(3, 2).to(dtype).eval()
    path = tmp_path / "half.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(4, 3, dtype=dtype),)), path)
    opened = ExportedModel.open(path)
    assert opened.precision.value == precision
    assert opened.batch_sizes == (4,)
    np.testing.assert_array_equal(
        opened.read_tensors()["weight"].values, module.weight.detach().float().numpy()
    )


def test_pickled_members_are_refused_unread(whole: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    trap = pickle.dumps(Trap())
    files = members(whole)

    def pickled(config: Any) -> None:
        config["config"]["0.weight"]["use_pickle"] = True

    def opaque(config: Any) -> None:
        config["config"]["0.weight"]["path_name"] = "opaque_obj_0"

    for change in (pickled, opaque):
        path = changed(whole, tmp_path, WEIGHTS, change)
        with pytest.raises(
            ModelError, match=r"'0\.weight' in '.*' is a pickled object, which is never loaded"
        ):
            program_file.load_program(path)
    legacy = pack(tmp_path / "legacy.pt2", files | {"data/weights/model.pt": trap})
    sample = pack(tmp_path / "sample.pt2", files | {"data/sample_inputs/model.pt": trap})
    with pytest.raises(ModelError, match=r"holds 'data/weights/model\.pt', which is no part of a program"):
        program_file.load_program(legacy)
    program_file.load_program(sample)  # without its sample inputs
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "name",
    ["data/aotinductor/model/model.so", "models/evil", "models/second.json", "code/x.py", "data/x/../../y"],
)
def test_anything_but_a_program_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / "m.pt2", members(whole) | {name: b"{}"})
    with pytest.raises(ModelError, match=r"no part of a program|holds 2 exported programs|leads out"):
        program_file.require_harmless(path)


@pytest.mark.parametrize(
    "target",
    ["torch.ops.load_library", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "os.system",
     "_operator.call", "_operator.attrgetter", "torch.load", "#ext:x", "math.__loader__.load_module",
     "torch.ops.evil.run.default"],
)  # fmt: skip
def test_a_call_of_anything_but_operators_is_refused(whole: Path, tmp_path: Path, target: str) -> None:
    path = changed(whole, tmp_path, MODEL, lambda program: first_node(program).update(target=target))
    with pytest.raises(ModelError, match=r"calls '.*', which is no operator on numbers"):
        program_file.load_program(path)


@pytest.mark.parametrize(
    "size",
    ["__import__('os').system('x')", "Symbol('s0').func", "(lambda: 1)()", "Pow(Pow(9, 9), 9)", "9**9**9",
     "exec('x')", "s0; s1", "Symbol('x y')", "1" * 5000],
)  # fmt: skip
def test_a_size_that_is_no_arithmetic_is_refused(whole: Path, tmp_path: Path, size: str) -> None:
    path = changed(whole, tmp_path, MODEL, lambda program: batch_of(program).update(expr_str=size))
    with pytest.raises(ModelError, match=r"symbolic size .*, which is no arithmetic"):
        program_file.load_program(path)


def test_names_that_would_become_code_are_refused(whole: Path, tmp_path: Path) -> None:
    def renamed(program: Any) -> None:
        first_node(program)["name"] = "x=__import__('os').system('x')"

    def argument(program: Any) -> None:
        call_signature(program)["forward_arg_names"] = ["a.b"]

    def tensor(program: Any) -> None:
        program["graph_module"]["graph"]["tensor_values"]['a"]; x'] = {}

    for change in (renamed, argument, tensor):
        with pytest.raises(ModelError, match=r"holds the name .*, which is no name"):
            program_file.load_program(changed(whole, tmp_path, MODEL, change))

    def text(program: Any) -> None:
        first_node(program)["inputs"].append({"arg": {"as_string": "a'b"}})

    with pytest.raises(ModelError, match=r"holds the text .* which could end a string"):
        program_file.load_program(changed(whole, tmp_path, MODEL, text))

    def number(program: Any) -> None:
        first_node(program)["inputs"].append({"arg": {"as_float": "one"}})

    with pytest.raises(ModelError, match="holds 'one' as a number"):
        program_file.load_program(changed(whole, tmp_path, MODEL, number))


@pytest.mark.parametrize(
    "tree",
    ['[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]',
     '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": 1, \\"fqn\\": \\"antigravity:x\\"}", '
     '"children_spec": []}]',
     "no json", '[1, {"type": "builtins.tuple", "context": "null"}]'],
)  # fmt: skip
def test_trees_that_import_are_refused(whole: Path, tmp_path: Path, tree: str) -> None:
    path = changed(whole, tmp_path, MODEL, lambda program: call_signature(program).update(in_spec=tree))
    with pytest.raises(ModelError, match="something else than tuples, lists and dicts"):
        program_file.load_program(path)


def test_guards_are_not_taken_over(whole: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    def guard(program: Any) -> None:
        program["guards_code"] = [f"__import__('pathlib').Path({str(touched)!r}).touch()"]

    path = changed(whole, tmp_path, MODEL, guard)
    program_file.load_program(path).module()(torch.ones(2, 1, 6, 6))
    assert not touched.exists()


def test_tensors_larger_than_their_bytes_are_refused(whole: Path, tmp_path: Path) -> None:
    def larger(config: Any) -> None:
        config["config"]["0.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 200

    with pytest.raises(
        ModelError, match=r"'0\.weight' of shape \(200, 1, 3, 3\) is larger than its 72 bytes"
    ):
        program_file.read_tensors(changed(whole, tmp_path, WEIGHTS, larger))

    def spread(config: Any) -> None:
        meta = config["config"]["0.bias"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]

    with pytest.raises(ModelError, match="is larger than its 8 bytes"):
        program_file.read_tensors(changed(whole, tmp_path, WEIGHTS, spread))

    def negative(config: Any) -> None:
        config["config"]["0.bias"]["tensor_meta"]["storage_offset"]["as_int"] = -1

    with pytest.raises(ModelError, match="size or stride -1, which is no length"):
        program_file.read_tensors(changed(whole, tmp_path, WEIGHTS, negative))

    def odd(config: Any) -> None:
        config["config"]["0.bias"]["tensor_meta"]["dtype"] = 77

    with pytest.raises(ModelError, match="has a type or strides that are not supported"):
        program_file.read_tensors(changed(whole, tmp_path, WEIGHTS, odd))


def test_what_is_missing_is_named(whole: Path, tmp_path: Path) -> None:
    files = members(whole)
    for name, message in (
        (MODEL, "holds 0 exported programs"),
        (WEIGHTS, "is missing"),
        ("data/weights/weight_0", r"lies in 'data/weights/weight_0', which is missing"),
    ):
        path = pack(tmp_path / "m.pt2", {n: d for n, d in files.items() if n != name})
        with pytest.raises(ModelError, match=message):
            program_file.require_harmless(path)
    for member, message in ((MODEL, "is no JSON"), (WEIGHTS, "is no JSON")):
        with pytest.raises(ModelError, match=message):
            program_file.require_harmless(pack(tmp_path / "m.pt2", files | {member: b"{"}))
    with pytest.raises(ModelError, match="holds no program"):
        program_file.require_harmless(pack(tmp_path / "m.pt2", files | {MODEL: b"[]"}))
    with pytest.raises(ModelError, match="lists no tensors"):
        program_file.require_harmless(pack(tmp_path / "m.pt2", files | {WEIGHTS: b"[]"}))


def test_a_program_that_is_nested_too_deeply_is_refused(whole: Path, tmp_path: Path) -> None:
    def nest(program: Any) -> None:
        inner: Any = []
        for _ in range(150):
            inner = [inner]
        first_node(program)["inputs"] = inner

    with pytest.raises(ModelError, match="nested more than 100 deep"):
        program_file.require_harmless(changed(whole, tmp_path, MODEL, nest))


def test_archives_that_torch_does_not_write_are_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = members(whole)
    with pytest.raises(ModelError, match="is compressed or encrypted"):
        program_file.require_harmless(pack(tmp_path / "m.pt2", files, zipfile.ZIP_DEFLATED))
    twice = tmp_path / "twice.pt2"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("m/a", b"")
        archive.writestr("other/b", b"")
    with pytest.raises(ModelError, match="'other/b' is there twice, or not in the archive's one folder"):
        program_file.require_harmless(twice)
    with pytest.raises(ModelError, match=r"gone\.pt2: can't be read"):
        program_file.require_harmless(tmp_path / "gone.pt2")
    monkeypatch.setattr(program_archive, "_MAX_JSON_BYTES", 10)
    with pytest.raises(ModelError, match="has more than 10 bytes"):
        program_file.require_harmless(whole)
    monkeypatch.setattr(program_archive, "_MAX_MEMBERS", 2)
    with pytest.raises(ModelError, match="members, more than the 2 that are read"):
        program_file.require_harmless(whole)
    monkeypatch.setattr(program_archive, "MAX_BYTES", 10)
    with pytest.raises(ModelError, match="more than the 10 that are read"):
        program_file.require_harmless(whole)


def test_inputs_that_are_no_tensors_are_refused(whole: Path, tmp_path: Path) -> None:
    def number(program: Any) -> None:
        program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"] = {"as_int": 3}

    with pytest.raises(ModelError, match=r"takes or gives \['as_int'\], not only tensors"):
        ExportedModel.open(changed(whole, tmp_path, MODEL, number))

    def nothing(program: Any) -> None:
        program["graph_module"]["signature"]["output_specs"] = []

    with pytest.raises(ModelError, match="has no input or no output"):
        ExportedModel.open(changed(whole, tmp_path, MODEL, nothing))


def test_harmless_nonsense_is_a_model_error(whole: Path, tmp_path: Path) -> None:
    path = changed(
        whole, tmp_path, MODEL, lambda program: program.update(schema_version={"major": 99, "minor": 0})
    )
    with pytest.raises(ModelError, match="torch can't load the program"):
        program_file.load_program(path)
    path = changed(whole, tmp_path, MODEL, lambda program: program["graph_module"].update(signature=3))
    with pytest.raises(ModelError, match=r"is no whole torch.export program"):
        program_file.read_signature(path)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 10**6),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_archive_is_opened_or_refused_but_never_crashes(
    whole: Path, tmp_path: Path, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(whole.read_bytes())
    for where, value in changes:
        data[where % len(data)] = value
    path = tmp_path / "damaged.pt2"
    path.write_bytes(data[: cut % len(data)] if cut % 2 else data)
    for read in (ExportedModel.open, program_file.read_tensors):
        with contextlib.suppress(ModelError):
            read(path)
    path.write_bytes(whole.read_bytes()[: cut % len(data)])
    with pytest.raises(
        ModelError, match=r"damaged\.pt2: (is no whole torch.export archive|holds 0 exported)"
    ):
        ExportedModel.open(path)


def test_the_repacked_archive_holds_nothing_else(whole: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(program_archive.read_archive(whole).packed().read())) as archive:
        assert archive.read("program/data/sample_inputs/model.pt") == b""
        assert b"stack_trace" not in archive.read("program/models/model.json")
