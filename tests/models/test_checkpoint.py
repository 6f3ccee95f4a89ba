"""Every public layout of a checkpoint, and a clear sentence for every file that is none."""

from __future__ import annotations

import collections
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.models import BasicVSR, RepSRNet, SRVGGNet, load_model, load_spynet, save_model

Save = Callable[[dict[str, Tensor], Path], Path]


def _small() -> BasicVSR:
    return BasicVSR(6, 2, num_hr_feat=10)


def _to_mmagic(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BasicSR's names as mmagic's ``BasicVSRNet`` spells them."""
    out = {}
    for key, value in state.items():
        key = key.replace("backward_trunk", "backward_resblocks").replace("forward_trunk", "forward_resblocks")
        key = re.sub(r"upconv(\d)", r"upsample\1.upsample_conv", key)
        level = re.fullmatch(r"spynet\.basic_module\.(\d)\.basic_module\.(\d)\.(weight|bias)", key)
        if level:
            number = int(level[2]) // 2
            key = f"spynet.basic_module.{level[1]}.basic_module.{number}.conv.{level[3]}"
        out[key] = value
    return out


def _basicsr(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"params": state}, folder / "net.pth")
    return folder / "net.pth"


def _basicsr_ema(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"params": {k: v + 1 for k, v in state.items()}, "params_ema": state}, folder / "net.pth")
    return folder / "net.pth"


def _mmagic(state: dict[str, Tensor], folder: Path) -> Path:
    names = {f"generator.{key}": value for key, value in _to_mmagic(state).items()}
    names |= {"step_counter": torch.zeros(1), "discriminator.conv.weight": torch.zeros(3)}
    torch.save({"meta": {"epoch": 3, "iter": 7}, "state_dict": collections.OrderedDict(names)}, folder / "net.pth")
    return folder / "net.pth"


def _mmagic_ema(state: dict[str, Tensor], folder: Path) -> Path:
    average = {f"generator_ema.module.{key}": value for key, value in _to_mmagic(state).items()}
    raw = {f"generator.{key}": value + 1 for key, value in _to_mmagic(state).items()}
    torch.save({"state_dict": {**raw, **average, "generator_ema.steps": torch.zeros(())}}, folder / "net.pth")
    return folder / "net.pth"


def _ddp(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "net.pt")
    return folder / "net.pt"


def _plain_old_zip(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "net.pth", _use_new_zipfile_serialization=False)
    return folder / "net.pth"


def _half(state: dict[str, Tensor], folder: Path) -> Path:
    save_file({key: value.half() for key, value in state.items()}, folder / "net.safetensors")
    return folder / "net.safetensors"


def _safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "net.safetensors")
    return folder / "net.safetensors"


@pytest.mark.parametrize("save", [_basicsr, _basicsr_ema, _mmagic, _mmagic_ema, _ddp, _plain_old_zip, _safetensors])
def test_every_layout_gives_the_same_network(save: Save, tmp_path: Path) -> None:
    model = _small().eval()
    loaded = load_model(save(model.state_dict(), tmp_path))
    assert isinstance(loaded, BasicVSR)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    frames = torch.rand(1, 2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(loaded(frames), model(frames), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        BasicVSR(4, 0, bidirectional=False),
        BasicVSR(5, 3, scale=2, num_hr_feat=7),
        BasicVSR(5, 1, scale=3, num_hr_feat=5),
        BasicVSR(5, 1, scale=1, num_hr_feat=4),
        SRVGGNet(7, 0, 2),
        SRVGGNet(16, 5, 1),
        SRVGGNet(8, 2, 3, "relu"),
        SRVGGNet(8, 2, 4, "leakyrelu"),
        RepSRNet("M4C8", 2),
    ],
    ids=lambda model: f"{type(model).__name__}-{'-'.join(str(v) for v in model.config.values())}",
)
def test_architecture_is_found_from_the_tensors(model: nn.Module, tmp_path: Path) -> None:
    save_model(model, tmp_path / "net.safetensors")
    loaded = load_model(tmp_path / "net.safetensors")
    assert loaded.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_dtype_layout_and_gradients(tmp_path: Path) -> None:
    model = SRVGGNet(4, 1, 2)
    path = _half(model.state_dict(), tmp_path)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in load_model(path).parameters())
    narrow = load_model(path, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in narrow.parameters())
    for parameter in narrow.parameters():
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), "each call would have to convert it"


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    path = _basicsr(SRVGGNet(4, 1, 2).state_dict(), tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_spynet_out_of_both_kinds_of_file(tmp_path: Path) -> None:
    model = _small()
    inside = load_spynet(_mmagic(model.state_dict(), tmp_path))
    own = load_spynet(_basicsr(model.spynet.state_dict(), tmp_path))
    for key, value in model.spynet.state_dict().items():
        assert torch.equal(inside.state_dict()[key], value)
        assert torch.equal(own.state_dict()[key], value)
    with pytest.raises(UserError, match=r"does not fit SPyNet: missing: .*62 in all.*; unexpected: body\.0"):
        load_spynet(_basicsr(SRVGGNet(4, 1, 2).state_dict(), tmp_path))


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    state = _small().state_dict()
    for index in range(5):
        state[f"extra{index}"] = torch.zeros(1)
    del state["fusion.weight"], state["conv_last.bias"]
    state["forward_trunk.main.2.1.conv2.bias"] = torch.zeros(9)
    with pytest.raises(UserError) as caught:
        load_model(_basicsr(state, tmp_path))
    message = str(caught.value)
    assert "does not fit BasicVSR: missing: fusion.weight, conv_last.bias; " in message
    assert "unexpected: extra0, extra1, extra2, extra3 and 1 more (5 in all); " in message
    assert "of another shape: forward_trunk.main.2.1.conv2.bias (9,) instead of (6,)" in message


def test_unknown_network(tmp_path: Path) -> None:
    path = _basicsr(nn.Linear(2, 2).state_dict(), tmp_path)
    with pytest.raises(
        UserError, match=r"fits no network known here: missing body\.0\.weight.*unexpected: weight, bias$"
    ):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv_hr.weight"), r"looks like a known network, but conv_hr\.weight is missing"),
        (lambda state: state.update({"upconv1.weight": torch.zeros(250, 6, 3, 3)}), "of another shape: upconv1.weight"),
    ],
)
def test_nearly_basicvsr(change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path) -> None:
    state = dict(_small().state_dict())
    change(state)
    with pytest.raises(UserError, match=message):
        load_model(_basicsr(state, tmp_path))


@pytest.mark.parametrize(
    ("out_channels", "message"), [(75, "upscale: expected 1, 2, 3 or 4, got 5"), (13, "of another shape: body.4")]
)
def test_srvgg_of_no_known_scale(out_channels: int, message: str, tmp_path: Path) -> None:
    state = dict(SRVGGNet(4, 1, 2).state_dict())
    state["body.4.weight"], state["body.4.bias"] = torch.zeros(out_channels, 4, 3, 3), torch.zeros(out_channels)
    with pytest.raises(UserError, match=message):
        load_model(_basicsr(state, tmp_path))


def test_grey_network(tmp_path: Path) -> None:
    state = dict(SRVGGNet(4, 1, 2).state_dict())
    state["body.0.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(UserError, match=r"body\.0\.weight \(4, 1, 3, 3\) instead of \(4, 3, 3, 3\)"):
        load_model(_basicsr(state, tmp_path))


def test_activation_that_tensors_do_not_tell(tmp_path: Path) -> None:
    path = _basicsr(SRVGGNet(4, 1, 2, "relu").state_dict(), tmp_path)
    with pytest.raises(UserError, match="relu and leakyrelu cannot be told apart"):
        load_model(path)


class _Code:
    """Pickled as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused(new_format: bool, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "net.pth"
    torch.save({"params": _Code(trace)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"net\.pth: refused: it holds more than tensors \(posix\.mkdir\)"):
        load_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the pickle was harmless, so the test showed nothing"


def test_whole_module_in_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"holds more than tensors \(torch\.nn\.modules\.linear\.Linear\)"):
        load_model(tmp_path / "net.pth")


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(path: Path, new_format: bool = True) -> bytes:
    torch.save({"params": SRVGGNet(8, 1, 2).state_dict()}, path, _use_new_zipfile_serialization=new_format)
    return path.read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(64)], ids=["empty", "text", "png"]
)
def test_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"net\.pth: not a checkpoint; expected one of PyTorch"):
        load_model(_write(tmp_path / "net.pth", content))


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    content = _saved(path)
    for size in (10, len(content) // 2, len(content) - 30):
        with pytest.raises(UserError, match=r"net\.pth: cut short"):
            load_model(_write(path, content[:size]))
    old = _saved(path, new_format=False)
    with pytest.raises(UserError, match=r"net\.pth: damaged, or not a checkpoint of PyTorch"):
        load_model(_write(path, old[: len(old) // 2]))


def test_damaged(tmp_path: Path) -> None:
    content = bytearray(_saved(tmp_path / "net.pth"))
    start = content.index(b"\x80\x02")  # of the pickle inside
    content[start : start + 8] = bytes(8)
    with pytest.raises(UserError, match=r"net\.pth: damaged, or not a checkpoint of PyTorch"):
        load_model(_write(tmp_path / "net.pth", bytes(content)))
    with pytest.raises(UserError, match=r"net\.pth: damaged, or not a checkpoint of PyTorch"):
        load_model(_write(tmp_path / "net.pth", pickle.dumps({"a": 1}, protocol=4)))


def test_others_may_read_what_is_saved(tmp_path: Path) -> None:
    save_model(SRVGGNet(8, 1, 2), tmp_path / "net.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("content", [b"", b"{}", struct.pack("<Q", 1 << 40) + b"{}"])
def test_no_safetensors(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"net\.safetensors: no safetensors file, or damaged"):
        load_model(_write(tmp_path / "net.safetensors", content))


@pytest.mark.parametrize(
    ("content", "held"),
    [({"epoch": 3, "lr": 0.1}, "a dict with the keys epoch, lr"), ([1, 2], "a list"), ({}, r"the keys \(none\)")],
)
def test_no_state_dict(content: object, held: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=f"holds no state_dict: expected tensors by name, got .*{held}"):
        load_model(tmp_path / "net.pth")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth: no such file"):
        load_model(tmp_path / "gone.pth")
    with pytest.raises(UserError, match="a folder, not a checkpoint"):
        load_model(tmp_path)
    with pytest.raises(
        UserError, match="basicvrs: neither a file nor a name of weights; there are basicvsr-vimeo-bi, "
    ):
        load_model("basicvrs")


def test_save_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    model = SRVGGNet(4, 1, 2)
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors"):
        save_model(model, tmp_path / "net.pth")
    with pytest.raises(UserError, match="nowhere: no such folder to write to"):
        save_model(model, tmp_path / "nowhere" / "net.safetensors")


# ncnn: files are written here from the format's description, not by the reader under test.


def _ncnn_files(folder: Path, model: SRVGGNet, *, half: bool = True, tail: str = "") -> Path:
    chain, weights, blob = [], b"", "in"
    for index, layer in enumerate(model.body):
        name = f"l{index}"
        if isinstance(layer, nn.PReLU):
            chain.append(f"PReLU {name} 1 1 {blob} {name} 0={layer.num_parameters}")
            weights += layer.weight.detach().numpy().astype("<f4").tobytes()
        else:
            kernel = layer.weight.detach().numpy()
            chain.append(f"Convolution {name} 1 1 {blob} {name} 0={kernel.shape[0]} 1=3 4=1 5=1 6={kernel.size}")
            raw = kernel.astype("<f2" if half else "<f4").tobytes()
            weights += struct.pack("<I", 0x01306B47 if half else 0) + raw + bytes(-len(raw) % 4)
            weights += layer.bias.detach().numpy().astype("<f4").tobytes()
        blob = name
    layers = ["Input data 0 1 data", "Split s 1 2 data in skip", *chain]
    layers += [
        f"PixelShuffle p 1 1 {blob} big 0={model.scale}",
        f"Interp i 1 1 skip near 0=1 1={model.scale} 2={model.scale}",
    ]
    layers += ["BinaryOp add 2 1 big near output", *filter(None, [tail])]
    text = "\n".join(["7767517", f"{len(layers)} {len(layers) + 1}", *layers]) + "\n"
    (folder / "net.param").write_text(text)
    (folder / "net.bin").write_bytes(weights)
    return folder / "net.param"


@pytest.mark.parametrize("half", [True, False])
def test_ncnn_round_trip(half: bool, tmp_path: Path) -> None:
    model = SRVGGNet(5, 2, 3)  # 5 * 3 * 9 values: an odd number of halves is padded
    with torch.no_grad():
        for index in range(0, 7, 2):
            model.body[index].weight.copy_(model.body[index].weight.half())
    path = _ncnn_files(tmp_path, model, half=half)
    for given in (path, path.with_suffix(".bin")):
        loaded = load_model(given)
        assert loaded.config == model.config
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", "not a text ncnn model"),
        ("l1 1 1 l0 l1", "l1 1 1 in l1", "do not form one chain"),
        ("0=1 1=2", "0=2 1=2", "the skip is not the input enlarged by nearest neighbour"),
        ("PixelShuffle", "Reorg", r"expected convolutions and PReLUs in turn, .* the layers are .*Reorg"),
        ("1=3 4=1", "1=5 4=1", "l0 is no 3x3 convolution with padding 1 and bias"),
        ("1=3 4=1", "1=3 3=2 4=1", "l0 is no 3x3 convolution"),
        ("6=108", "6=x", "line 5 is no layer of an ncnn model"),
        ("\n8 9\n", "\n7 9\n", "says 7 layers, has 8"),
    ],
)
def test_ncnn_of_another_form(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = _ncnn_files(tmp_path, SRVGGNet(4, 0, 2))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_model(path)


def test_ncnn_damaged_weights(tmp_path: Path) -> None:
    path = _ncnn_files(tmp_path, SRVGGNet(4, 0, 2))
    weights = path.with_suffix(".bin")
    content = weights.read_bytes()
    for change, message in [
        (content[:-5], "in the middle of its weights"),
        (content + b"1234", r"4 bytes are left over; it does not fit net\.param"),
        (b"\x01\x02\x03\x04" + content[4:], "weights of type 0x04030201 are not supported"),
        (b"", "in the middle of its weights|weights of type"),
    ]:
        weights.write_bytes(change)
        with pytest.raises(UserError, match=message):
            load_model(path)
    weights.unlink()
    with pytest.raises(UserError, match=r"the weights are expected beside it, in net\.bin"):
        load_model(path)


def test_ncnn_with_a_resize_at_its_end(tmp_path: Path) -> None:
    path = _ncnn_files(
        tmp_path, SRVGGNet(4, 1, 4), tail="Interp end 1 1 output small 0=3 1=5.000000e-01 2=5.000000e-01"
    )
    with pytest.raises(UserError, match=r"resizes its own output by 0\.5; load its x4 version"):
        load_model(path)


@pytest.mark.network
def test_animevideov3_is_read_whole(real_weights: Callable[[str], Path]) -> None:
    model = load_model(real_weights("animevideov3"))
    assert model.config == {"num_feat": 64, "num_conv": 16, "upscale": 4, "act_type": "prelu"}
    assert sum(p.numel() for p in model.parameters()) == 621_424
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.parameters())
