"""A model that is saved and loaded is the same model; what can't be said as data is refused."""

from __future__ import annotations

import json
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from hydrapress.artifacts import Factory, Signature, TensorSpec, TorchModel
from hydrapress.checkpoint import load_checkpoint, save_checkpoint
from hydrapress.checkpoint.layers import LAYERS, build_layer, describe_layer
from hydrapress.errors import ModelError
from hydrapress.hookspecs import hookimpl
from hydrapress.invariants import SparsityMask
from hydrapress.plugins import Package, Plugins

torch.set_num_threads(1)

# --- nets and their factories ------------------------------------------------------------


class Block(nn.Module):
    """A class of its own, as in any research code."""

    scale = 1.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = 2
        self.shape = (width, 1)
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.shortcut: nn.Module | None = None
        self.head = nn.Linear(width, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn(self.conv(image))) * self.scale * self.heads
        if self.shortcut is not None:
            x = x + self.shortcut(image)
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


class Words(nn.Module):
    """Integers in, a tied decoder, a non-persistent buffer, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(20, 6)
        self.gru = nn.GRU(6, 6, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(6, 20, bias=False)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("ramp", torch.ones(6), persistent=False)
        self.lookup = torch.arange(20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.gru(self.encoder(self.lookup[tokens]))[0] * self.ramp)
        return out


class Options:
    """An object of its own, without equality."""

    def __init__(self) -> None:
        self.size = 3
        self.parent = self


class Shared(nn.Module):
    """One activation and one layer used twice; a list that names submodules again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.act = nn.ReLU()
        self.act2 = self.act
        self.steps = [self.first, self.act]
        limit, itself = [1, 2], self
        self.options = {"p": 0.5, "names": ["a"], "function": torch.relu, "key": lambda x: (x, limit, itself)}
        self.table = np.arange(3)
        self.offset = torch.ones(2)
        self.helper = self.help
        self.config = Options()

    def help(self) -> int:
        return 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        out: torch.Tensor = self.act2(self.again(x))
        return out


class Needy(nn.Module):
    """Looks into its random numbers while it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bound = float(torch.ones(3).sum().item())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x) / self.bound
        return out


def stack(specs: list[list[Any]]) -> nn.Sequential:
    """Make a Sequential from ``[class name, argument, ...]`` rows."""
    return nn.Sequential(*(getattr(nn, name)(*args) for name, *args in specs))


def no_module() -> int:
    return 3


def anything(**options: Any) -> nn.Module:
    return nn.Linear(4, 4)


def failing() -> nn.Module:
    raise RuntimeError("no such file")


NETS = types.ModuleType("checkpoint_nets")
for _net in (Block, Words, Shared, Needy, stack, no_module, anything, failing):
    setattr(NETS, _net.__name__, _net)
sys.modules["checkpoint_nets"] = NETS


class NetsPlugin:
    """Registers the factories under their lower-case names."""

    @hookimpl
    def hydrapress_models(self) -> dict[str, str]:
        names = ("Block", "Words", "Shared", "Needy", "stack", "no_module", "anything", "failing")
        return {name.lower(): f"checkpoint_nets:{name}" for name in names}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    known = Plugins()
    known.register(NetsPlugin(), Package("nets", "checkpoint_nets", "nets", "1"))
    return known


def image_model(module: nn.Module | None = None, width: int = 8) -> TorchModel:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("image", "float32", (None, 3, 8, 8)),), (TensorSpec("output", "float32", (None, 4)),)
    )
    return TorchModel(signature, module=module or Block(width), factory=Factory("block", {"width": width}))


def words_model() -> TorchModel:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("tokens", "int64", (None, 5)),), (TensorSpec("output", "float32", (None, 5, 20)),)
    )
    return TorchModel(signature, module=Words(), factory=Factory("words"))


def flat_model(module: nn.Module, factory: Factory, inputs: int = 4) -> TorchModel:
    signature = Signature(
        (TensorSpec("x", "float32", (None, inputs)),), (TensorSpec("output", "float32", (None, 4)),)
    )
    return TorchModel(signature, module=module, factory=factory)


def round_trip(model: TorchModel, folder: Path, plugins: Plugins) -> TorchModel:
    """Save, load, and compare state and outputs; saving twice must give the same bytes."""
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    save_checkpoint(model, folder, plugins=plugins)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_checkpoint(model, folder, plugins=plugins)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    loaded = load_checkpoint(folder, plugins)
    after = loaded.module.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])
        assert torch.equal(tensor, model.module.state_dict()[name]), "saving changed the model"
    assert str(loaded.module) == str(model.module)
    assert not any(m.training for m in loaded.module.modules())
    assert loaded.signature == model.signature
    assert loaded.factory == model.factory
    return loaded


def surgery_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((folder / "architecture.json").read_text())["surgery"]
    return {row.pop("path"): row for row in rows}


# --- what survives -----------------------------------------------------------------------


def test_an_untouched_model_has_no_surgery(tmp_path: Path, plugins: Plugins) -> None:
    round_trip(image_model(), tmp_path, plugins)
    assert surgery_of(tmp_path) == {}


def test_shrunk_channels_are_attributes(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    block: Any = model.module
    block.conv.out_channels = np.int64(5)  # as a channel pruner computes it
    block.conv.weight = nn.Parameter(block.conv.weight.detach()[:5].clone())
    block.bn.num_features = 5
    block.bn.weight = nn.Parameter(torch.rand(5))
    block.bn.bias = nn.Parameter(torch.rand(5))
    block.bn.running_mean, block.bn.running_var = torch.rand(5), torch.rand(5)
    block.head.in_features = 5
    block.head.weight = nn.Parameter(block.head.weight.detach()[:, :5].clone())
    block.heads, block.shape, block.scale = 1, (5, 1), 0.5
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert surgery_of(tmp_path) == {
        "": {"set": {"heads": 1, "shape": [5, 1], "scale": 0.5}},
        "conv": {"set": {"out_channels": 5}},
        "bn": {"set": {"num_features": 5}},
        "head": {"set": {"in_features": 5}},
    }
    assert loaded.shape == (5, 1)
    assert type(loaded.conv.out_channels) is int
    loss = loaded(torch.rand(2, 3, 8, 8)).sum()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step(lambda: loss.backward())


def test_batchnorm_folded_into_a_bias(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    block: Any = model.module
    block.bn = nn.Identity()
    block.conv.bias = nn.Parameter(torch.rand(8))
    round_trip(model, tmp_path, plugins)
    assert surgery_of(tmp_path) == {"bn": {"new": "Identity"}}


def test_linear_factorized(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    model.module.head = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 4))
    round_trip(model, tmp_path, plugins)
    assert list(surgery_of(tmp_path)) == ["head", "head.0", "head.1"]
    assert surgery_of(tmp_path)["head.0"]["args"] == {"in_features": 8, "out_features": 2, "bias": False}


def test_a_parameter_that_became_none(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    block: Any = model.module
    block.head.bias = None
    block.act = nn.LeakyReLU(0.2)
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert loaded.head.bias is None
    assert surgery_of(tmp_path)["head"] == {"absent": ["bias"]}
    assert loaded.act.negative_slope == 0.2


def test_a_module_where_none_was_and_none_where_one_was(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    block: Any = model.module
    block.shortcut = nn.Conv2d(3, 8, 1)
    round_trip(model, tmp_path, plugins)
    saved = load_checkpoint(tmp_path, plugins)
    again: Any = saved.copy_module()
    again.shortcut = None
    save_checkpoint(image_model(again), tmp_path, plugins=plugins)
    assert load_checkpoint(tmp_path, plugins).module.shortcut is None
    again.act = None
    with pytest.raises(ModelError, match="can't be run on a sample"):
        save_checkpoint(image_model(again), tmp_path, plugins=plugins)


def test_dropped_and_reordered_children(tmp_path: Path, plugins: Plugins) -> None:
    specs: list[list[Any]] = [["Linear", 4, 4], ["ReLU"], ["Dropout", 0.5], ["Linear", 4, 4], ["Tanh"]]
    module = stack(specs)
    del module[2]
    children = list(module.children())
    module._modules.clear()
    for name, child in zip(("3", "0", "1", "late"), children, strict=True):
        module.add_module(name, child)
    loaded = round_trip(flat_model(module, Factory("stack", {"specs": specs})), tmp_path, plugins)
    assert list(loaded.module._modules) == ["3", "0", "1", "late"]
    assert surgery_of(tmp_path)[""]["drop"] == ["2", "4"]


def test_ties_buffers_and_recurrent_weights(tmp_path: Path, plugins: Plugins) -> None:
    model = words_model()
    net: Any = model.module
    net.ramp.copy_(torch.rand(6))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.rand_like(parameter))
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert loaded.decoder.weight is loaded.encoder.weight
    assert torch.equal(loaded.ramp, net.ramp)
    assert "ramp" not in loaded.state_dict()
    assert all(a is b for a, b in zip(loaded.gru._flat_weights, loaded.gru.parameters(), strict=True))
    assert json.loads((tmp_path / "architecture.json").read_text())["aliases"] == {
        "decoder.weight": "encoder.weight"
    }


def test_untied_weights_stay_untied(tmp_path: Path, plugins: Plugins) -> None:
    model = words_model()
    net: Any = model.module
    net.decoder.weight = nn.Parameter(torch.rand(20, 6))
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert loaded.decoder.weight is not loaded.encoder.weight


def test_fewer_recurrent_layers(tmp_path: Path, plugins: Plugins) -> None:
    model = words_model()
    net: Any = model.module
    net.gru = nn.GRU(6, 6, batch_first=True)
    round_trip(model, tmp_path, plugins)
    assert surgery_of(tmp_path)["gru"]["new"] == "GRU"


def test_shared_modules_stay_shared(tmp_path: Path, plugins: Plugins) -> None:
    torch.manual_seed(0)
    module: Any = Shared()
    loaded: Any = round_trip(flat_model(module, Factory("shared")), tmp_path, plugins).module
    assert loaded.again is loaded.first
    module.again = nn.Linear(4, 4)
    module.act2 = nn.GELU()
    loaded = round_trip(flat_model(module, Factory("shared")), tmp_path, plugins).module
    assert loaded.again is not loaded.first

    specs = [["Linear", 4, 4], ["Linear", 4, 4]]
    twice: Any = stack(specs)
    twice[1] = twice[0]
    loaded = round_trip(flat_model(twice, Factory("stack", {"specs": specs})), tmp_path, plugins).module
    assert loaded[0] is loaded[1]
    assert surgery_of(tmp_path) == {"1": {"same": "0"}}


def test_frozen_parameters_stay_frozen(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    block: Any = model.module
    block.conv.weight.requires_grad_(False)
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert not loaded.conv.weight.requires_grad
    assert loaded.head.weight.requires_grad


def test_added_buffers_and_changed_persistence(tmp_path: Path, plugins: Plugins) -> None:
    model = words_model()
    net: Any = model.module
    net.register_buffer("ramp", torch.rand(6), persistent=True)
    net.register_buffer("extra", torch.rand(2), persistent=False)
    net.register_parameter("gain", nn.Parameter(torch.rand(3)))
    loaded: Any = round_trip(model, tmp_path, plugins).module
    assert torch.equal(loaded.extra, net.extra)
    assert isinstance(loaded.gain, nn.Parameter)


def test_a_factory_that_looks_into_its_numbers(tmp_path: Path, plugins: Plugins) -> None:
    round_trip(flat_model(Needy(), Factory("needy")), tmp_path, plugins)


def test_another_memory_layout_is_the_same_model(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model(Block(8).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    round_trip(model, tmp_path, plugins)


def test_numbers_beyond_json(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    model.module.act = nn.Hardtanh(-float("inf"), float("inf"))
    round_trip(model, tmp_path, plugins)


def test_half_precision(tmp_path: Path, plugins: Plugins) -> None:
    signature = Signature(
        (TensorSpec("x", "bfloat16", (None, 4)),), (TensorSpec("y", "bfloat16", (None, 4)),)
    )
    factory = Factory("stack", {"specs": [["Linear", 4, 4]]})
    module = stack([["Linear", 4, 4]]).to(torch.bfloat16)
    round_trip(TorchModel(signature, module=module, factory=factory), tmp_path, plugins)


def test_invariants_come_back(tmp_path: Path, plugins: Plugins) -> None:
    mask = np.eye(8, 4, dtype=bool).T
    model = image_model().with_invariant(SparsityMask({"head.weight": mask}))
    loaded = round_trip(model, tmp_path, plugins)
    (invariant,) = loaded.invariants
    assert isinstance(invariant, SparsityMask)
    np.testing.assert_array_equal(invariant.masks["head.weight"], mask)


def test_random_numbers_are_not_disturbed(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    save_checkpoint(model, tmp_path, plugins=plugins)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_the_artifact_saves_and_loads_itself(tmp_path: Path, plugins: Plugins) -> None:
    factory = Factory("checkpoint_nets.Block", {"width": 8})
    model = TorchModel(image_model().signature, module=Block(8), factory=factory)
    model.save(tmp_path)
    assert type(TorchModel.load(tmp_path, plugins, trust=("checkpoint_nets",)).module) is Block


# --- random modules ----------------------------------------------------------------------

WIDTH = 6
TABLE: dict[str, tuple[Any, ...]] = {
    "Linear": (WIDTH, WIDTH),
    "ReLU": (),
    "GELU": ("tanh",),
    "LeakyReLU": (0.3,),
    "PReLU": (WIDTH,),
    "Hardtanh": (-0.5, 0.5),
    "BatchNorm1d": (WIDTH,),
    "LayerNorm": (WIDTH,),
    "GroupNorm": (2, WIDTH),
    "RMSNorm": (WIDTH,),
    "Dropout": (0.25,),
    "Identity": (),
    "Softmax": (-1,),
    "Threshold": (0.1, 0.2),
}
specs_strategy = st.lists(
    st.sampled_from(sorted(TABLE)).map(lambda name: [name, *TABLE[name]]), min_size=1, max_size=6
)


def replace_layer(module: nn.Sequential, at: int, name: str) -> None:
    module[at] = getattr(nn, name)(*TABLE[name])


def factorize(module: nn.Sequential, at: int, name: str) -> None:
    module[at] = nn.Sequential(
        nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH), getattr(nn, name)(*TABLE[name])
    )


def drop_layer(module: nn.Sequential, at: int, name: str) -> None:
    if len(module) > 1:
        del module[at]


def append_layer(module: nn.Sequential, at: int, name: str) -> None:
    module.append(getattr(nn, name)(*TABLE[name]))


def share_layer(module: nn.Sequential, at: int, name: str) -> None:
    module.append(module[at])


def tie_weights(module: nn.Sequential, at: int, name: str) -> None:
    linears = [m for m in module if isinstance(m, nn.Linear)]
    for layer in linears[1:]:
        layer.weight = linears[0].weight


def shrink(module: nn.Sequential, at: int, name: str) -> None:
    layer = module[at]
    alone = sum(child is layer for child in module._modules.values()) == 1
    if isinstance(layer, nn.Linear) and alone:
        kept = nn.Linear(WIDTH, 3)
        layer.out_features, layer.weight, layer.bias = 3, kept.weight, kept.bias
        module[at] = nn.Sequential(layer, nn.Linear(3, WIDTH, bias=False))


def perturb(module: nn.Sequential, at: int, name: str) -> None:
    for tensor in (*module[at].parameters(), *module[at].buffers()):
        tensor.data = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor + 3


OPERATIONS: list[Callable[[nn.Sequential, int, str], None]] = [
    replace_layer,
    factorize,
    drop_layer,
    append_layer,
    share_layer,
    tie_weights,
    shrink,
    perturb,
]
steps_strategy = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 5), st.sampled_from(sorted(TABLE))), max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs=specs_strategy, steps=steps_strategy)
def test_any_stack_survives_any_surgery(
    specs: list[list[Any]],
    steps: list[tuple[Callable[[nn.Sequential, int, str], None], int, str]],
    tmp_path_factory: pytest.TempPathFactory,
    plugins: Plugins,
) -> None:
    torch.manual_seed(0)
    module = stack(specs)
    for operation, at, name in steps:
        operation(module, at % len(module), name)
    folder = tmp_path_factory.mktemp("model")
    loaded = round_trip(flat_model(module, Factory("stack", {"specs": specs}), WIDTH), folder, plugins)
    ties = [[a is b for b in module.parameters()] for a in module.parameters()]
    again = [[a is b for b in loaded.module.parameters()] for a in loaded.module.parameters()]
    assert ties == again


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("Linear", "Embedding", "EmbeddingBag"), (4, 6)),
    "Bilinear": (2, 3, 4),
    **{f"{kind}{d}d": (4, 6, 3) for kind in ("Conv", "ConvTranspose") for d in (1, 2, 3)},
    **{f"{kind}{d}d": (4,) for kind in ("BatchNorm", "InstanceNorm") for d in (1, 2, 3)},
    "LayerNorm": ((3, 4),),
    "RMSNorm": ((3, 4),),
    "GroupNorm": (2, 4),
    "LocalResponseNorm": (2,),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (3, 4, 2)),
    **dict.fromkeys(("RNNCell", "GRUCell", "LSTMCell"), (3, 4)),
    "MultiheadAttention": (8, 2, 0.1, True, True),
    "Threshold": (0.1, 0.2),
    **{f"{kind}Pool{d}d": (2,) for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for d in (1, 2, 3)},
    **{f"LPPool{d}d": (2.0, 3) for d in (1, 2)},
    **{
        f"{kind}Pad{d}d": (1,)
        for kind in ("Zero", "Reflection", "Replication", "Circular")
        for d in (1, 2, 3)
    },
    **{f"ConstantPad{d}d": (1, 0.5) for d in (1, 2, 3)},
    "Unflatten": (1, (2, 2)),
    "Upsample": (None, 2.0),
    **dict.fromkeys(("PixelShuffle", "PixelUnshuffle", "ChannelShuffle"), (2,)),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_of_the_table_describes_itself(name: str) -> None:
    layer = LAYERS[name](*ARGUMENTS.get(name, ()))
    described = describe_layer(layer)
    assert described is not None
    again = build_layer(*described)
    assert str(again) == str(layer)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in layer.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in again.parameters())


def test_layers_without_bias_or_affine_describe_that() -> None:
    for layer in (
        nn.Conv2d(2, 2, 1, bias=False),
        nn.LayerNorm(3, bias=False),
        nn.BatchNorm2d(3, affine=False),
    ):
        described = describe_layer(layer)
        assert described is not None
        assert list(build_layer(*described).state_dict()) == list(layer.state_dict())
    attention = describe_layer(nn.MultiheadAttention(8, 2, bias=False, kdim=4, vdim=6))
    assert attention is not None
    assert attention[1]["bias"] is False


# --- what is refused when saving ---------------------------------------------------------


def hooked(block: Any) -> None:
    block.conv.register_forward_hook(lambda *_: None)


def hooked_backward(block: Any) -> None:
    block.register_full_backward_hook(lambda *_: None)


def hooked_gradient(block: Any) -> None:
    block.head.weight.register_hook(lambda gradient: gradient)


def normed(block: Any) -> None:
    block.head = parametrizations.weight_norm(block.head)


def custom(block: Any) -> None:
    block.act = type("MyActivation", (nn.ReLU,), {})()


def custom_added(block: Any) -> None:
    block.act = nn.Sequential(nn.ReLU(), type("MyActivation", (nn.ReLU,), {})())


def patched(block: Any) -> None:
    block.head.forward = lambda x: x


def other_type(block: Any) -> None:
    block.heads = "two"


def object_attribute(block: Any) -> None:
    block.heads = object()


def new_attribute(block: Any) -> None:
    block.mark = 3


def deleted(block: Any) -> None:
    del block.heads


def meta(block: Any) -> None:
    block.head = nn.Linear(8, 4, device="meta")


def subclassed(block: Any) -> None:
    block.head.weight = nn.Parameter(torch.rand(4, 8).to_sparse())


def lazy(block: Any) -> None:
    block.head = nn.LazyLinear(4)


def overlapping(block: Any) -> None:
    whole = torch.rand(5, 8)
    block.head.weight = nn.Parameter(whole[:4])
    block.head.register_parameter("other", nn.Parameter(whole[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked, r"'conv' has a forward hook \(.*hooked.*\).*remove it"),
        (hooked_backward, "the model itself has a backward hook"),
        (hooked_gradient, r"'head.weight' has a gradient hook"),
        (normed, r"'head' has a parametrization.*remove_parametrizations"),
        (custom, r"'act' is a .*MyActivation where its factory makes a ReLU; only standard"),
        (custom_added, r"'act.1' is a .*MyActivation where its factory makes nothing"),
        (patched, "'head' has a patched 'forward'"),
        (
            other_type,
            "the model itself: attribute 'heads' differs.*it is the int 2; 'two' is of another type",
        ),
        (object_attribute, "attribute 'heads' differs.*a object is no plain value"),
        (new_attribute, "the model itself has an attribute 'mark' that its factory does not give"),
        (deleted, "the model itself has lost its 'heads'"),
        (meta, "'head.weight' is a tensor without data"),
        (subclassed, "'head.weight' is a Parameter .*sparse.*only plain dense"),
        (lazy, r"'head' is a .*LazyLinear"),
        (overlapping, "'head.other' and 'head.weight' are two views of the same memory"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_what_is_no_data_is_refused_by_its_path(
    change: Callable[[Any], None], message: str, tmp_path: Path, plugins: Plugins
) -> None:
    model = image_model()
    change(model.module)
    with pytest.raises(ModelError, match=message):
        save_checkpoint(model, tmp_path, plugins=plugins)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_old_weight_norm_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    model.module.head = torch.nn.utils.weight_norm(nn.Linear(8, 4))
    with pytest.raises(ModelError, match="'head' has a forward pre-hook"):
        save_checkpoint(model, tmp_path, plugins=plugins)


def test_a_replaced_module_that_a_list_still_names_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    module: Any = Shared()
    module.first = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ModelError, match=r"attribute 'steps' differs"):
        save_checkpoint(flat_model(module, Factory("shared")), tmp_path, plugins=plugins)
    module.steps[0] = module.first
    with pytest.raises(ModelError, match="'first' was replaced, but another module"):
        save_checkpoint(flat_model(module, Factory("shared")), tmp_path, plugins=plugins)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", {"p": 0.6}),
        ("table", np.arange(4)),
        ("offset", torch.zeros(2)),
        ("helper", Shared.help),
        ("config", types.SimpleNamespace(size=3)),
        ("steps", [nn.ReLU()]),
    ],
)
def test_objects_that_differ_from_the_factorys_are_refused(
    name: str, value: object, tmp_path: Path, plugins: Plugins
) -> None:
    module = Shared()
    setattr(module, name, value)
    with pytest.raises(
        ModelError, match=rf"attribute '{name}' differs from the factory's and can't be saved"
    ):
        save_checkpoint(flat_model(module, Factory("shared")), tmp_path, plugins=plugins)
    module = Shared()
    module.config.size = 4
    with pytest.raises(ModelError, match=r"attribute 'config' differs"):
        save_checkpoint(flat_model(module, Factory("shared")), tmp_path, plugins=plugins)


def test_a_parameter_named_again_by_an_attribute_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    module: Any = Shared()
    module.offset = [module.first.weight]
    with pytest.raises(ModelError, match=r"attribute 'offset' differs"):
        save_checkpoint(flat_model(module, Factory("shared")), tmp_path, plugins=plugins)


def test_a_hidden_state_is_found_by_comparing_outputs(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = image_model()
    secret = id(model.module)
    original = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, x: original(self, x) + float(self.training or id(self) == secret)
    )
    monkeypatch.setattr(Block, "__deepcopy__", lambda self, memo: self, raising=False)
    with pytest.raises(ModelError, match="gives other outputs than the one in memory"):
        save_checkpoint(model, tmp_path, plugins=plugins)


def test_a_signature_that_does_not_fit_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    wrong = Signature((TensorSpec("image", "float32", (None, 7)),), ())
    model = TorchModel(wrong, module=Block(8), factory=Factory("block", {"width": 8}))
    with pytest.raises(ModelError, match=r"factory 'block' can't be run on a sample .*\[\(2, 7\)\]"):
        save_checkpoint(model, tmp_path, plugins=plugins)
    wrong = Signature((TensorSpec("image", "load", (None, 7)),), ())
    model = TorchModel(wrong, module=Block(8), factory=Factory("block", {"width": 8}))
    with pytest.raises(ModelError, match="dtype 'load', which torch does not know"):
        save_checkpoint(model, tmp_path, plugins=plugins)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Factory("block", {"width": 8, "extra": 1}), "factory 'block' failed with"),
        (Factory("failing"), "factory 'failing' failed with {}: no such file"),
        (Factory("no_module"), "factory 'no_module' gives a int, not a torch.nn.Module"),
        (Factory("words"), "the model itself is a .*Block where its factory makes a Words"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(
    factory: Factory, message: str, tmp_path: Path, plugins: Plugins
) -> None:
    model = TorchModel(image_model().signature, module=Block(8), factory=factory)
    with pytest.raises(ModelError, match=message):
        save_checkpoint(model, tmp_path, plugins=plugins)


def test_arguments_that_are_no_json_are_refused(tmp_path: Path, plugins: Plugins) -> None:
    model = flat_model(nn.Linear(4, 4), Factory("anything", {"a": [Path("x")]}))
    message = r"'anything': args.a\[0\]: a \w+ is no plain value.*arguments must be JSON values"
    with pytest.raises(ModelError, match=message):
        save_checkpoint(model, tmp_path, plugins=plugins)
    model = flat_model(nn.Linear(4, 4), Factory("anything", {"a": {1: 2}}))
    with pytest.raises(ModelError, match=r"args.a has the key 1; keys must be strings"):
        save_checkpoint(model, tmp_path, plugins=plugins)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_layer_that_never_ran_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    specs = [["LazyLinear", 4]]
    model = flat_model(stack(specs), Factory("stack", {"specs": specs}))
    with pytest.raises(ModelError, match=r"'0.weight' has no shape yet; run the model once"):
        save_checkpoint(model, tmp_path, plugins=plugins)
    model.module(torch.rand(2, 4))
    round_trip(model, tmp_path, plugins)
    assert surgery_of(tmp_path)["0"]["new"] == "Linear"


def test_a_type_that_the_file_can_not_hold_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    model = image_model()
    model.module.register_buffer("wave", torch.zeros(3, dtype=torch.bits8))
    with pytest.raises(ModelError, match=r"weights.safetensors: the weights can't be written"):
        save_checkpoint(model, tmp_path, plugins=plugins)


def test_a_saved_model_that_does_not_run_is_refused(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = image_model()
    original = Block.forward

    def forward(self: Block, x: torch.Tensor) -> torch.Tensor:
        if self is not model.module:
            raise RuntimeError("not me")
        return original(self, x)

    monkeypatch.setattr(Block, "forward", forward)
    monkeypatch.setattr(Block, "__deepcopy__", lambda self, memo: self, raising=False)
    with pytest.raises(ModelError, match="the saved model of factory 'block' does not run: not me"):
        save_checkpoint(model, tmp_path, plugins=plugins)


# --- tampered files ----------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, plugins: Plugins) -> Path:
    save_checkpoint(image_model(), tmp_path, plugins=plugins)
    return tmp_path


def tamper(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "architecture.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def surgery(**row: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data["surgery"].append(row)


LAYER = {"in_features": 2, "out_features": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (surgery(path="act", new="os.system"), "class 'os.system' is not allowed"),
        (surgery(path="act", new="Linaer"), "Did you mean 'Linear'"),
        (
            surgery(path="act", new="Linear", args=LAYER | {"device": "cpu"}),
            "Linear has no argument 'device'",
        ),
        (surgery(path="act", new="Linear", args={"in_features": 10**30}), "Linear can't be made from"),
        (
            surgery(path="act", new="Linear", args={"in_features": 10**9, "out_features": 10**9}),
            "'act.weight' has no tensor",
        ),
        (
            surgery(path="act", new="GRU", args={"input_size": 1, "hidden_size": 1, "num_layers": 10**9}),
            r"num_layers is 1000000000; at most 1000",
        ),
        (
            surgery(path="", set={"missing": 1}),
            "the model itself has no attribute 'missing' that could be set",
        ),
        (surgery(path="", set={"_modules": 1}), "no attribute '_modules' that could be set"),
        (surgery(path="", set={"__doc__": "x"}), "no attribute '__doc__' that could be set"),
        (surgery(path="", set={"forward": "x"}), "no attribute 'forward' that could be set"),
        (
            surgery(path="", set={"heads": True}),
            "attribute 'heads' can't be set .*it is the int 2; True is of",
        ),
        (surgery(path="", set={"heads": 2.5}), "2.5 is of another type"),
        (surgery(path="", set={"shape": ["a"]}), "is of another type"),
        (surgery(path="nowhere", set={"heads": 3}), "there is no module 'nowhere'"),
        (surgery(path="nowhere.a", new="ReLU"), "there is no module 'nowhere'"),
        (surgery(path="", drop=["nothing"]), "'nothing' can't be dropped"),
        (surgery(path="", absent=["nothing"]), "'nothing' can't become None"),
        (surgery(path="heads", new="ReLU"), "the model itself has an attribute 'heads' already"),
        (surgery(path="", buffers={"a.b": True}), "can't have a member named 'a.b'"),
        (surgery(path="act", new="Sequential", order=["1"]), "'order' does not name exactly the children"),
        (
            lambda data: data["surgery"].extend(
                [{"path": "act", "new": "Sequential"}, {"path": "act.0", "same": "act"}]
            ),
            "'act.0' contains itself|'act' contains itself",
        ),
        (
            lambda data: data["surgery"].extend(
                [{"path": "act", "new": "ReLU"}]
                + [
                    row
                    for depth in range(30)
                    for row in (
                        {"path": f"head{depth}", "new": "Sequential"},
                        {"path": f"head{depth}.0", "same": f"head{depth - 1}" if depth else "act"},
                        {"path": f"head{depth}.1", "same": f"head{depth - 1}" if depth else "act"},
                    )
                ]
            ),
            "leads to more than 1000000 modules",
        ),
        (surgery(path="", unknown=1), "unknown part 'unknown'"),
        (surgery(path=3), "surgery.path is 3, not a string"),
        (surgery(path="", set=[]), "surgery of '': set is a list, not an object"),
        (surgery(path="", set={"heads": {}}), "a dict is no plain value"),
        (surgery(path="", drop="act"), "drop is a str, not a list"),
        (surgery(path="", buffers={"a": 1}), "buffers.a is 1, not true or false"),
        (lambda data: data["surgery"].append(3), "surgery is a int, not an object"),
        (lambda data: data.update(format=2), "is of format 2; this version of hydrapress reads format 1"),
        (lambda data: data.pop("aliases"), "is malformed .KeyError: 'aliases'"),
        (
            lambda data: data["aliases"].update({"head.bias": "x"}),
            "'head.bias' is tied to 'x', which is not stored",
        ),
        (lambda data: data["aliases"].update({"head.bias": "conv.weight"}), "both stored and tied"),
        (
            lambda data: data["aliases"].update({"nothing": "conv.weight"}),
            "'nothing' has no place in the model",
        ),
        (lambda data: data["frozen"].append("nothing"), "'nothing' is frozen, but is no parameter"),
        (lambda data: data["signature"]["inputs"][0].update(shape=["a"]), "'image' has the size 'a'"),
        (
            lambda data: data["factory"].update(name="os.system"),
            "'os' is not trusted .trusted: nothing.*load",
        ),
        (lambda data: data["factory"].update(name="os:system"), r"hydrapress.load\(folder, trust=\['os'\]\)"),
        (lambda data: data["factory"].update(name="blok"), "there is no model 'blok'. Did you mean 'block'"),
        (lambda data: data["factory"].update(args=[1]), "factory.args is a list"),
        (lambda data: data["factory"].update(args={"width": "x"}), "factory 'block' failed"),
    ],
)
def test_a_tampered_architecture_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, saved: Path, plugins: Plugins
) -> None:
    tamper(saved, change)
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(saved, plugins)
    assert str(saved) in str(error.value), "the message names the file"


@pytest.mark.parametrize("trust", [("checkpoint_net",), ("",), ("checkpoint_nets.Block",), ()])
def test_only_trusted_modules_are_imported(trust: tuple[str, ...], saved: Path, plugins: Plugins) -> None:
    tamper(saved, lambda data: data["factory"].update(name="checkpoint_nets.Block"))
    with pytest.raises(ModelError, match="'checkpoint_nets' is not trusted"):
        load_checkpoint(saved, plugins, trust)


def test_nothing_is_imported_before_trust_is_checked(
    saved: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_net.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    tamper(saved, lambda data: data["factory"].update(name="evil_net.make"))
    with pytest.raises(ModelError, match="'evil_net' is not trusted"):
        load_checkpoint(saved, plugins)
    assert "evil_net" not in sys.modules


def test_a_trusted_path_that_does_not_import(saved: Path, plugins: Plugins) -> None:
    tamper(saved, lambda data: data["factory"].update(name="checkpoint_nets:Nothing"))
    with pytest.raises(ModelError, match="'checkpoint_nets:Nothing' can't be imported"):
        load_checkpoint(saved, plugins, trust=("checkpoint_nets",))


def test_modules_nested_without_end_are_refused(saved: Path, plugins: Plugins) -> None:
    paths = ["act" + ".0" * depth for depth in range(1200)]
    tamper(saved, lambda data: data["surgery"].extend({"path": path, "new": "Sequential"} for path in paths))
    with pytest.raises(ModelError, match=r"architecture.json: its modules are nested too deeply"):
        load_checkpoint(saved, plugins)


def test_a_trusted_module_that_breaks_at_import(
    saved: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_net.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    tamper(saved, lambda data: data["factory"].update(name="broken_net.make"))
    with pytest.raises(
        ModelError, match=r"'broken_net.make' can't be imported \(RuntimeError: half installed\)"
    ):
        load_checkpoint(saved, plugins, trust=("broken_net",))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_an_architecture_that_is_no_json_object(content: bytes, saved: Path, plugins: Plugins) -> None:
    (saved / "architecture.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"architecture.json: (can't be read as JSON|is of format None)"):
        load_checkpoint(saved, plugins)


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
def test_a_missing_file_is_named(name: str, saved: Path, plugins: Plugins) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: can't be read"):
        load_checkpoint(saved, plugins)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["head.bias"].update(shape=[10**12]),
        lambda header: header["head.bias"].update(shape=[2**62, 2**62]),
        lambda header: header["head.bias"].update(data_offsets=[0, 10**15]),
        lambda header: header["head.bias"].update(dtype="F64"),
    ],
)
def test_shapes_beyond_the_file_are_refused(
    change: Callable[[dict[str, Any]], Any], saved: Path, plugins: Plugins
) -> None:
    rewrite_header(saved / "weights.safetensors", change)
    with pytest.raises(ModelError, match=r"weights.safetensors: can't be read"):
        load_checkpoint(saved, plugins)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_weights_file_is_refused(keep: int, saved: Path, plugins: Plugins) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"weights.safetensors: can't be read"):
        load_checkpoint(saved, plugins)


def test_extra_and_missing_tensors_are_named(saved: Path, plugins: Plugins) -> None:
    rewrite_header(saved / "weights.safetensors", lambda h: h.update({"tail.bias": h.pop("head.bias")}))
    message = "weights.safetensors: does not fit.*'head.bias' has no tensor; 'tail.bias' has no place"
    with pytest.raises(ModelError, match=message):
        load_checkpoint(saved, plugins)


def test_integers_as_parameters_must_be_frozen(saved: Path, plugins: Plugins) -> None:
    rewrite_header(saved / "weights.safetensors", lambda header: header["head.bias"].update(dtype="I32"))
    with pytest.raises(ModelError, match=r"'head.bias' is of type torch.int32, which takes no gradient"):
        load_checkpoint(saved, plugins)
