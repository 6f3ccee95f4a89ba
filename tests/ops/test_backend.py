"""Choosing a backend: what exists, what is forced, and the warning where nothing but the reference is left."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch

import vsr_kernels
from vsr_kernels import backend, build

X = torch.zeros(1, 4, 2, 2)
needs_cpu = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


def test_the_cpu_operators_are_built_where_they_can_be() -> None:
    """A run of the tests that silently covers the reference alone is a failure."""
    if build.mode() == "none":
        pytest.skip("VSR_KERNELS_BUILD=none")
    obstacle = build.cxx_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    status = vsr_kernels.backends()["cpu"]
    assert status.available, status.detail
    assert status.operators == (*backend.OPERATORS, *backend.CPU_OPERATORS)


def test_backends_are_listed_in_the_order_of_preference() -> None:
    found = vsr_kernels.backends()
    assert tuple(found) == backend.NAMES
    assert found["reference"].available
    assert found["reference"].operators == (*backend.OPERATORS, *backend.CPU_OPERATORS)
    for status in found.values():
        assert status.detail


def test_a_missing_gpu_is_the_reason() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is visible")
    status = vsr_kernels.backends()["cuda"]
    assert not status.available
    assert status.detail


@needs_cpu
def test_the_instruction_set_is_reported() -> None:
    known = ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    assert vsr_kernels.cpu_isa() in known
    assert vsr_kernels.cpu_isa() in vsr_kernels.backends()["cpu"].detail


def test_unknown_names_are_refused() -> None:
    expected = "use_backend: name: expected one of cuda, triton, nvrtc, cpu, reference, got 'gpu'"
    with pytest.raises(ValueError) as caught, vsr_kernels.use_backend("gpu"):
        pass
    assert str(caught.value) == expected


def test_backends_that_are_missing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend._state, "cpu_error", "")
    monkeypatch.setattr(backend._state, "cuda_error", "no toolkit, says the test")
    with (
        pytest.raises(RuntimeError, match="cuda is not available: no toolkit, says the test"),
        vsr_kernels.use_backend("cuda"),
    ):
        pass


def which(x: torch.Tensor) -> str:
    return backend.choose("pixel_shuffle", x)


@needs_cpu
def test_choice() -> None:
    """Kernels where they exist, the reference where it is forced or the dtype is float64."""
    assert which(X) == "cpu"
    assert which(X.double()) == "reference"
    with vsr_kernels.use_backend("reference"):
        assert which(X) == "reference"
        with vsr_kernels.use_backend("cpu"):
            assert which(X) == "cpu"
            assert which(X.double()) == "reference"
        assert which(X) == "reference"
    assert which(X) == "cpu"


@needs_cpu
def test_an_error_inside_ends_the_choice() -> None:
    with pytest.raises(KeyError), vsr_kernels.use_backend("reference"):
        raise KeyError
    assert which(X) == "cpu"


@needs_cpu
def test_forced_backends_do_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with vsr_kernels.use_backend("cpu"):
        with pytest.raises(RuntimeError, match=r"use_backend\('cpu'\): expected a tensor on cpu, got one on meta"):
            vsr_kernels.pixel_shuffle(X.to("meta"), 2)
        monkeypatch.setitem(backend._state.kernels, "cpu", frozenset())
        with pytest.raises(
            RuntimeError, match=r"pixel_shuffle: use_backend\('cpu'\): no kernel: no cpu kernel of pixel_shuffle"
        ):
            vsr_kernels.pixel_shuffle(X, 2)


@needs_cpu
def test_the_operators_run_where_they_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is not called where a kernel was chosen, and the kernel not where the reference was."""
    from vsr_kernels import reference

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the reference ran")

    monkeypatch.setattr(reference, "pixel_shuffle", refuse)
    with vsr_kernels.use_backend("cpu"):
        vsr_kernels.pixel_shuffle(X, 2)
    with pytest.raises(AssertionError), vsr_kernels.use_backend("reference"):
        vsr_kernels.pixel_shuffle(X, 2)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where nothing could be compiled, and nothing has been said about it yet."""
    monkeypatch.setattr(backend._state, "ready", True)
    monkeypatch.setattr(backend._state, "kernels", {"cpu": frozenset(), "cuda": frozenset(), "meta": frozenset()})
    monkeypatch.setattr(backend._state, "cpu_error", "no compiler, says the test")
    monkeypatch.setattr(backend._state, "warned", set())


@pytest.mark.usefixtures("without_kernels")
def test_falling_back_is_said_once() -> None:
    """Per operator, with the reason; the result is right, and the warning points at the caller's line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            out = vsr_kernels.pixel_shuffle(X, 2)
        vsr_kernels.pixel_unshuffle(out, 2)
    assert [str(w.message) for w in caught] == [
        f"vsr_kernels.{name} runs as plain PyTorch on cpu: no compiler, says the test"
        for name in ("pixel_shuffle", "pixel_unshuffle")
    ]
    assert all(w.filename == __file__ for w in caught)
    assert out.shape == (1, 1, 4, 4)


@pytest.mark.usefixtures("without_kernels")
def test_the_reference_by_choice_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with vsr_kernels.use_backend("reference"):
            vsr_kernels.pixel_shuffle(X, 2)
        vsr_kernels.pixel_shuffle(X.double(), 2)


@pytest.mark.usefixtures("without_kernels")
def test_the_cpu_backend_is_missing_then() -> None:
    status = vsr_kernels.backends()["cpu"]
    assert not status.available
    assert status.operators == ()
    assert status.detail == "no compiler, says the test"
    with (
        pytest.raises(RuntimeError, match="cpu is not available: no compiler, says the test"),
        vsr_kernels.use_backend("cpu"),
    ):
        pass


def test_every_function_is_exported() -> None:
    for name in (*backend.OPERATORS, *backend.CPU_OPERATORS, "merge_rep_branches", *vsr_kernels.__all__):
        assert getattr(vsr_kernels, name) is not None
        assert name in vsr_kernels.__all__


class OnGpu:
    """What the choice asks of a tensor on a GPU, where there is none."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """gpu(major, minor): as on a machine with that GPU and all kernels."""
    monkeypatch.setattr(backend._state, "ready", True)
    monkeypatch.setattr(backend._state, "warned", set())
    monkeypatch.setitem(backend._state.kernels, "cuda", frozenset(backend.OPERATORS))

    def install(major: int, minor: int) -> None:
        monkeypatch.setattr(backend, "compute_capability", lambda index: (major, minor))

    return install


def test_turing_has_convolutions_in_float16(gpu: Callable[[int, int], None]) -> None:
    """The others run as plain PyTorch, which is said once per operator and dtype; what needs no products runs."""
    gpu(7, 5)
    half, brain, single = (OnGpu(d) for d in (torch.float16, torch.bfloat16, torch.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for op in backend.TENSOR_CORE_OPERATORS:
            assert backend.choose(op, half) == "cuda"
            for _ in range(2):
                assert backend.choose(op, brain) == backend.choose(op, single) == "reference"
        for op in set(backend.OPERATORS) - set(backend.TENSOR_CORE_OPERATORS):
            assert backend.choose(op, brain) == backend.choose(op, single) == "cuda"
    assert [str(w.message) for w in caught] == [
        f"vsr_kernels.{op} runs as plain PyTorch on cuda: the GPU (compute capability 7.5) has tensor cores for "
        f"float16 only, not for {dtype}"
        for op in backend.TENSOR_CORE_OPERATORS
        for dtype in ("bfloat16", "float32")
    ]


def test_autocast_decides_the_dtype(gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(7, 5)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.float16)
    assert backend.choose("conv3x3", OnGpu(torch.float32)) == "cuda"


def test_older_gpus_have_no_kernels(gpu: Callable[[int, int], None]) -> None:
    gpu(7, 0)
    with pytest.warns(UserWarning, match=r"compute capability 7\.0, the kernels need 7\.5"):
        assert backend.choose("pixel_shuffle", OnGpu(torch.float16)) == "reference"


def test_forced_cuda_names_what_the_gpu_lacks(gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(7, 5)
    monkeypatch.setattr(backend._state, "forced", "cuda")
    with pytest.raises(RuntimeError, match=r"no kernel: the GPU .* has tensor cores for float16 only, not for float32"):
        backend.choose("conv3x3", OnGpu(torch.float32))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_later_gpus_have_everything(gpu: Callable[[int, int], None], capability: tuple[int, int]) -> None:
    gpu(*capability)
    for op in backend.OPERATORS:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert backend.choose(op, OnGpu(dtype)) == "cuda"
        assert backend.choose(op, OnGpu(torch.float64)) == "reference"


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch, gpu: Callable[[int, int], None]) -> None:
    """As where Triton can be used and the CUDA kernels are missing."""
    gpu(8, 0)
    monkeypatch.setitem(backend._state.kernels, "cuda", frozenset())
    monkeypatch.setattr(backend._state, "cuda_error", "no toolkit, says the test")
    monkeypatch.setattr(backend._state, "triton_error", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("triton")
def test_triton_stands_in_for_missing_cuda_kernels(
    gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quietly; where its GPU is too old for Triton too, both reasons are said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for op in backend.OPERATORS:
            assert backend.choose(op, OnGpu(torch.bfloat16)) == "triton"
            assert backend.choose(op, OnGpu(torch.float64)) == "reference"
    monkeypatch.setattr(backend, "compute_capability", lambda index: (7, 5))
    with pytest.warns(
        UserWarning, match=r"no toolkit, says the test; in Triton: the GPU has .* 7\.5, Triton needs 8\.0"
    ):
        assert backend.choose("conv3x3", OnGpu(torch.float16)) == "reference"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert backend.choose("conv3x3", OnGpu(torch.float16)) == "triton"


@pytest.mark.usefixtures("triton")
def test_what_has_cpu_kernels_only_runs_as_plain_pytorch_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = r"no toolkit, says the test; in Triton: no Triton kernel of quantized_conv3x3 exists"
    with pytest.warns(UserWarning, match=reason):
        assert backend.choose("quantized_conv3x3", OnGpu(torch.uint8)) == "reference"
    monkeypatch.setattr(backend._state, "forced", "nvrtc")
    with pytest.raises(RuntimeError, match=r"use_backend\('nvrtc'\): no kernel: no CUDA kernel of quantized_conv3x3"):
        backend.choose("quantized_conv3x3", OnGpu(torch.uint8))


@pytest.mark.usefixtures("triton")
def test_triton_by_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before CUDA kernels then, and takes tensors on a GPU only, unless interpreted."""
    monkeypatch.setitem(backend._state.kernels, "cuda", frozenset(backend.OPERATORS))
    assert backend.choose("conv3x3", OnGpu(torch.float16)) == "cuda"
    monkeypatch.setattr(backend._state, "forced", "triton")
    assert backend.choose("conv3x3", OnGpu(torch.float16)) == "triton"
    assert backend.choose("conv3x3", OnGpu(torch.float64)) == "reference"
    with pytest.raises(RuntimeError, match=r"use_backend\('triton'\): expected a tensor on cuda, got one on cpu"):
        which(X)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert which(X) == "triton"
    with pytest.raises(RuntimeError, match=r"no kernel: Triton's interpreter multiplies matrices of bfloat16 wrongly"):
        backend.choose("conv3x3", X.bfloat16())


def test_run_time_compilation_by_choice(gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before every other kernel then, on a GPU that its kernels run on."""
    gpu(8, 0)
    monkeypatch.setattr(backend._state, "forced", "nvrtc")
    for op in backend.OPERATORS:
        assert backend.choose(op, OnGpu(torch.bfloat16)) == "nvrtc"
    assert backend.choose("conv3x3", OnGpu(torch.float64)) == "reference"
    with pytest.raises(RuntimeError, match=r"use_backend\('nvrtc'\): expected a tensor on cuda, got one on cpu"):
        which(X)
    gpu(7, 5)
    assert backend.choose("conv3x3", OnGpu(torch.float16)) == "nvrtc"
    with pytest.raises(RuntimeError, match=r"^conv3x3: use_backend\('nvrtc'\): no kernel: the GPU .* float16 only"):
        backend.choose("conv3x3", OnGpu(torch.bfloat16))


def test_why_nothing_is_compiled_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the list and where it is forced; CuPy is not imported for the list."""
    monkeypatch.setattr(backend._state, "nvrtc_error", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    with (
        pytest.raises(RuntimeError, match=r"nvrtc is not available: this torch \(.*\) has no CUDA"),
        vsr_kernels.use_backend("nvrtc"),
    ):
        pass
    monkeypatch.setattr(backend._state, "nvrtc_error", None)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert vsr_kernels.backends()["nvrtc"] == (False, backend.OPERATORS, "the package cupy is not installed")


def test_a_missing_triton_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend._state, "triton_error", None)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(RuntimeError, match="triton is not available: the package triton is not installed"),
        vsr_kernels.use_backend("triton"),
    ):
        pass


def test_importing_the_package_imports_neither_triton_nor_cupy() -> None:
    """Nor does a call that needs none: each takes a second."""
    code = "import sys, torch, vsr_kernels; vsr_kernels.pixel_shuffle(torch.zeros(1, 4, 2, 2), 2); "
    code += "print('vsr_kernels.triton' in sys.modules, 'cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    needed = not backend._state.kernels["cuda"] and torch.cuda.is_available()
    assert done.stdout.strip() == f"{needed} False"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("text", ["", "0", "1", "true", "False", "ON", "no"])
def test_the_interpreter_is_asked_for_as_triton_understands_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setenv("TRITON_INTERPRET", text)
    assert backend.interpreted() == bool(triton.knobs.runtime.interpret)


def test_gpus_are_described(gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What one lacks stands beside its name."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "GPU")
    for capability, expected in (
        ((7, 0), "GPU (no kernels: compute capability 7.0)"),
        ((7, 5), "GPU (convolutions in float16 only: compute capability 7.5)"),
        ((9, 0), "GPU"),
    ):
        gpu(*capability)
        assert backend._describe(0) == expected


def test_the_lowest_capability_is_the_lowest_target() -> None:
    major, minor = build.CUDA_TARGETS.split(";")[0].split(".")
    assert (int(major), int(minor)) == backend.LOWEST_CAPABILITY


def test_the_choice_does_not_initialise_cuda() -> None:
    """A process that never touches a GPU, and may fork, is left alone."""
    code = "import torch, vsr_kernels; vsr_kernels.backends(); vsr_kernels.pixel_shuffle(torch.zeros(1, 4, 2, 2), 2); "
    code += "print(torch.cuda.is_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.cuda.is_available() or done.stdout.strip() == "False"
