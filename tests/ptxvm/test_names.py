"""Kernels are found by the names that their authors wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptxvm
from ptxvm.names import function_name, matching, plain

KERNELS = Path(__file__).with_name("kernels")


@pytest.mark.parametrize(
    ("readable", "name"),
    [
        ("void conv<(int)64, (bool)0>(float const*, int)", "conv<64,false>"),
        ("void vsr::conv<(int)-2, (bool)1>(float*)", "vsr::conv<-2,true>"),
        ("void (anonymous namespace)::f<float, (unsigned int)3>(float*)", "f<float,3>"),
        ("void a::f<(a::Kind)1>(void (*)(int))", "a::f<1>"),
        ("void f<64u, 3ul>(int)", "f<64,3>"),
        ("scale(float*, float const*, int)", "scale"),
        ("copy", "copy"),
    ],
)
def test_function_name(readable, name):
    assert function_name(readable) == name


def test_plain_names_keep_what_is_no_cast():
    assert plain("conv<(int)64, (bool)0>") == plain("conv<64, false>") == plain("conv<64,false>") == "conv<64,false>"
    assert plain("f(int, float*)") == "f(int,float*)"


def test_exact_names_win_over_parts():
    readable = {"a": "void conv<64, false>(int)", "b": "void conv<64, true>(int)", "c": "void my_conv<64, false>(int)"}
    assert matching("conv<64, false>", readable) == ["a"]
    assert matching("my_conv", readable) == ["c"]
    assert matching("true", readable) == ["b"]
    assert matching("conv<64", readable) == ["a", "b", "c"]
    assert matching("nothing", readable) == []


@pytest.mark.parametrize(
    "name",
    ["scale<64, false>", "scale<64,false>", "tiles::scale<64, false>", "scale<(int)64, (bool)0>", "scale<6, false>"],
)
def test_templates_of_a_module(cuda, name):
    module = cuda(KERNELS / "counts.cu")
    assert ("ILi64ELb0E" if "64" in name else "ILi6ELb0E") in module.find(name)


def test_other_kinds_of_template_arguments(cuda):
    module = cuda(KERNELS / "counts.cu")
    assert module.find("by_kind<3, 1>") == module.find("by_kind")
    assert module.find("tiles::hidden<float>") == module.find("hidden")
    with pytest.raises(ptxvm.PtxError, match="'scale' names 3 kernels"):
        module.find("scale")
