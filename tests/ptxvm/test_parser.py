"""Reading PTX: bodies of kernels are read when they are needed."""

from __future__ import annotations

import numpy as np
import pytest

import ptxvm

TEXT = """
.version 8.0
.target sm_80
.address_size 64
.file 1 "two.cu"
.visible .entry first(.param .u64 y)
{
.reg .b64 %rd<2>;
.reg .b32 %r<2>;
.pragma "a brace } in a string";
// and one { in a comment
.loc 1 7 0
ld.param.u64 %rd1, [y];
{
.reg .b32 inner;
mov.b32 inner, 7;
st.global.b32 [%rd1], inner;
}
ret;
}
.visible .entry second(.param .u64 y)
{
nonsense.u32 1;
}
"""


def test_a_kernel_that_cannot_be_read_does_not_matter_to_others() -> None:
    module = ptxvm.Module.from_ptx(TEXT)
    assert module.kernels == ["first", "second"]
    y = np.zeros(1, np.int32)
    stats = module.launch("first", 1, 1, [y])
    assert y[0] == 7
    line = 1 + TEXT.splitlines().index("st.global.b32 [%rd1], inner;")
    assert [(i.line, i.source) for i in stats.code if i.op == "st"] == [(line, "two.cu:7")]
    with pytest.raises(ptxvm.PtxError, match="nonsense"):
        module.program("second")
