"""Scales, masks and cuts: every form of a pruned network computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.small import KINDS, frames, network, random_kept
from vsr.errors import UserError
from vsr.inference.runner import Runner
from vsr.models import EDSR, BasicVSR, Pruned, SRVGGNet, load_model, save_model
from vsr.models.export import export_model
from vsr.models.pruned import FORMAT_KEY, PrunedBasicVSR, RemovedBlock
from vsr.models.units import units_of
from vsr.pruning.cut import cut, dense_form, masked
from vsr.pruning.scales import ScaledNetwork

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5}


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_the_units_are_those_of_the_paper() -> None:
    sizes = units_of(BasicVSR()).sizes
    assert sum(sizes.values()) == 11_776
    assert list(sizes)[-4:] == ["fusion.out", "upconv1.out", "upconv2.out", "conv_hr.out"]
    assert sizes["backward_trunk.main.2.29.hidden"] == 64


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_one_change_no_bit_and_fold_exactly(kind: str) -> None:
    dense = network(kind)
    x = frames(dense)
    scaled = ScaledNetwork(dense).eval()
    with torch.no_grad():
        assert torch.equal(scaled(x), dense(x))
        for scale in scaled.scales:
            scale.uniform_(0.5, 1.5)
        assert not torch.equal(scaled(x), dense(x))
        assert torch.equal(scaled.folded()(x), scaled(x))


@pytest.mark.parametrize("kind", ["bidirectional", "prelu"])
def test_a_scale_multiplies_what_its_unit_puts_out(kind: str) -> None:
    """Against factors applied to activations by hand, through hooks."""
    dense = network(kind).double()
    scaled = ScaledNetwork(dense).eval()
    factors = {group: torch.rand(size).double() + 0.5 for group, size in scaled.units.sizes.items()}
    with torch.no_grad():
        for scale, factor in zip(scaled.scales, factors.values(), strict=True):
            scale.copy_(factor)
        folded = scaled.folded()
    group = "upconv1.out" if kind == "bidirectional" else "body.2.out"
    path = group.removesuffix(".out")
    module, plain = folded.get_submodule(path), dense.get_submodule(path)
    x = torch.randn(1, module.weight.shape[1], 5, 6, dtype=torch.float64)
    # In upconv1, r^2 consecutive filters are one unit, so the scales multiply channels after the shuffle.
    by_hand = plain(x).detach() * factors[group][:, None, None]
    assert torch.allclose(module(x), by_hand, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_mask_gather_and_dense_forms_agree(kind: str, dtype: torch.dtype) -> None:
    dense = network(kind).to(dtype)
    x = frames(dense, dtype=dtype)
    kept = random_kept(dict(units_of(dense).sizes))
    pruned = cut(dense, kept)
    with torch.no_grad():
        wanted = masked(dense, kept)(x)
        assert distance(wanted, dense(x)) > 1e-3
        assert distance(pruned(x), wanted) < TOLERANCE[dtype]
        assert distance(pruned.to_dense()(x), wanted) < TOLERANCE[dtype]
    assert type(pruned.to_dense()) is type(dense)
    assert pruned.kept == kept
    again, present = dense_form(pruned)
    assert present == kept and torch.equal(cut(again, kept)(x), pruned(x))


def test_a_block_without_units_is_the_identity() -> None:
    dense = network("unidirectional")
    units = units_of(dense)
    kept = units.everything | {f"{units.blocks[0]}.{part}": [] for part in ("in", "hidden", "out")}
    pruned = cut(dense, kept)
    assert isinstance(pruned.get_submodule(units.blocks[0]), RemovedBlock)
    x = frames(dense)
    with torch.no_grad():
        assert distance(pruned(x), masked(dense, kept)(x)) < 2e-5
        assert distance(pruned.to_dense()(x), pruned(x)) < 2e-5
    half_gone = kept | {f"{units.blocks[1]}.hidden": []}
    with pytest.raises(ValueError, match="expected units in each of in, hidden and out, or none, got"):
        cut(dense, half_gone)


@pytest.mark.parametrize("kind", ["bidirectional", "prelu"])
def test_gradients_of_a_pruned_network_are_those_of_the_masked_one(kind: str) -> None:
    dense = network(kind).double()
    kept = random_kept(dict(units_of(dense).sizes))
    pruned, full = cut(dense, kept).train(), masked(dense, kept).train()
    x = frames(dense, dtype=torch.float64)
    for model in (pruned, full):
        model(x).square().mean().backward()
    for conv, rows, columns in units_of(dense).slices(kept):
        wanted = full.get_submodule(conv.path).weight.grad
        wanted = wanted if rows is None else wanted[rows]
        wanted = wanted if columns is None else wanted[:, columns]
        assert torch.allclose(pruned.get_submodule(conv.path).weight.grad, wanted, rtol=1e-9, atol=1e-12), conv.path


def test_scaled_branches_are_pruned_with_their_factor() -> None:
    torch.manual_seed(0)
    model = EDSR(8, 2, 2, res_scale=0.1).eval()
    dense, everything = dense_form(model)
    x = frames(model)
    with torch.no_grad():
        assert distance(cut(dense, everything)(x), model(x)) < 1e-6


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_files(kind: str, tmp_path: Path) -> None:
    dense = network(kind)
    units = units_of(dense)
    kept = random_kept(dict(units.sizes))
    for block in units.blocks[:1]:
        kept |= {f"{block}.{part}": [] for part in ("in", "hidden", "out")}
    pruned = cut(dense, kept)
    save_model(pruned, tmp_path / "pruned.safetensors")
    loaded = load_model(tmp_path / "pruned.safetensors")
    assert isinstance(loaded, Pruned) and loaded.kept == kept and loaded.config == dense.config
    x = frames(dense)
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned(x))
        export_model(loaded, tmp_path / "dense.pth")
        if kind != "leakyrelu":  # whose slope such a file does not hold
            other = load_model(tmp_path / "dense.pth")
            assert not isinstance(other, Pruned) and distance(other(x), pruned(x)) < 2e-5
        if isinstance(dense, SRVGGNet):
            pytest.importorskip("onnx", reason="the onnx package is not installed")
            runtime = pytest.importorskip("onnxruntime", reason="the onnxruntime package is not installed")
            export_model(loaded, tmp_path / "small.onnx")  # narrow as it is: any program runs that
            session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
            (made,) = session.run(None, {"frames": x.numpy()})
            assert distance(torch.from_numpy(made), pruned(x)) < 2e-5
    low = load_model(tmp_path / "pruned.safetensors", dtype=torch.bfloat16)
    assert low.kept == kept and next(low.parameters()).dtype == torch.bfloat16


def spoil(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str) -> Path:
    """A copy of a file with some of its content replaced."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        written = dict(file.metadata())
    content = load_file(path) | (tensors or {})
    target = path.with_name("spoiled.safetensors")
    save_file(content, target, {key: value for key, value in (written | metadata).items() if value})
    return target


def test_files_in_half_the_size(tmp_path: Path) -> None:
    dense = network("bidirectional")
    pruned = cut(dense, random_kept(dict(units_of(dense).sizes)))
    save_model(pruned, tmp_path / "half.safetensors", half=True)
    loaded = load_model(tmp_path / "half.safetensors")
    assert isinstance(loaded, Pruned) and isinstance(pruned, Pruned) and loaded.kept == pruned.kept
    parameters = dict(pruned.named_parameters())
    for name, value in load_file(tmp_path / "half.safetensors").items():
        if name in parameters:
            assert value.dtype == torch.float16
            # Half a unit in the last of 11 digits, or of the smallest numbers.
            assert torch.allclose(loaded.state_dict()[name], parameters[name], rtol=2**-11, atol=2**-25)
        else:
            assert torch.equal(value, pruned.state_dict()[name])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    dense = network("unidirectional")
    path = tmp_path / "pruned.safetensors"
    save_model(cut(dense, random_kept(dict(units_of(dense).sizes))), path)
    block = "forward_trunk.main.2.0"
    content = load_file(path)
    kept = content[f"{block}.in_kept"]
    for tensors, metadata, message in (
        ({}, {FORMAT_KEY: "9"}, "a pruned network in format 9; this version reads format 1"),
        ({}, {FORMAT_KEY: ""}, "a pruned network in format None"),
        ({}, {"architecture": "PrunedThing"}, "a pruned network of kind 'PrunedThing'"),
        ({}, {"num_block": "3"}, "kept: missing .*forward_trunk.main.2.2"),
        ({}, {"depth": "3"}, "do not describe a PrunedBasicVSR"),
        ({f"{block}.in_kept": kept.flip(0)}, {}, "expected ascending numbers"),
        ({f"{block}.in_kept": kept + 8}, {}, r"expected ascending numbers in \[0, 8\)"),
        ({f"{block}.in_kept": kept.float()}, {}, "expected a list of int64, got torch.float32"),
        ({f"{block}.in_kept": kept[1:]}, {}, f"of another shape: {block}.conv1.weight"),
        ({f"{block}.in_kept": kept[:0]}, {}, "expected units in each of in, hidden and out, or none"),
        ({"fusion.out_kept": kept[:0]}, {}, "fusion.out: expected at least one unit, got none"),
        ({"other_kept": kept}, {}, r"unknown \['other'\]"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(spoil(path, tensors, **metadata))


# Running --------------------------------------------------------------------------------------------------------------


def test_streaming_planned_and_whole_clips_agree() -> None:
    dense = network("unidirectional")
    kept = random_kept(dict(units_of(dense).sizes))
    units = units_of(dense)
    kept |= {f"{units.blocks[1]}.{part}": [] for part in ("in", "hidden", "out")}
    pruned = cut(dense, kept)
    clip = torch.rand(6, 3, 12, 10)
    runner = Runner(pruned, device=torch.device("cpu"), dtype=torch.float32)
    parts = [runner.run(clip[i : i + 1]) for i in range(6)]  # planned from the second call on
    model = runner._model(torch.float32)
    assert model._reconstruct.replays and model.forward_trunk.forward.replays  # type: ignore[union-attr]
    with torch.no_grad():
        assert distance(torch.cat(parts), pruned(clip[None])[0]) < 2e-5
    assert isinstance(pruned, PrunedBasicVSR)
