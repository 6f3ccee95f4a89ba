"""Values of special registers."""

from __future__ import annotations

import numpy as np

from .aliases import Values
from .errors import Unsupported
from .lanes import Lanes


def special_register(lanes: Lanes, name: str, shared_bytes: int, dynamic_base: int) -> Values:
    """An array with an entry per lane (active or not), or a scalar where all lanes agree."""
    base, _, letter = name[1:].partition(".")
    axis = "xyz".find(letter) if letter else -1
    block = lanes.first_block + lanes.block_of
    if base in ("tid", "ctaid", "clusterid"):
        index, shape = (lanes.thread_of, lanes.block) if base == "tid" else (block, lanes.grid)
        if axis > 0:
            index = index // shape[0]
        if axis == 2:
            index = index // shape[1]
        return (index % shape[axis] if axis < 2 else index).astype(np.uint32)
    if base in ("ntid", "nctaid", "nclusterid"):
        return np.uint32((lanes.block if base == "ntid" else lanes.grid)[axis])
    if base in ("cluster_ctaid", "cluster_nctaid"):
        return np.uint32(base == "cluster_nctaid")
    lane = (lanes.lane_index % 32).astype(np.uint32)
    bit = np.uint32(1) << lane
    below = bit - np.uint32(1)
    values = {
        "laneid": lane,
        "warpid": lanes.warp_in_block.astype(np.uint32),
        "nwarpid": np.uint32(lanes.warps_per_block),
        "smid": block.astype(np.uint32),
        "nsmid": np.uint32(1 << 16),
        "gridid": np.uint64(1),
        "lanemask_eq": bit,
        "lanemask_lt": below,
        "lanemask_le": bit | below,
        "lanemask_gt": ~(bit | below),
        "lanemask_ge": ~below,
        "dynamic_smem_size": np.uint32(shared_bytes - dynamic_base),
        "total_smem_size": np.uint32(shared_bytes),
        "cluster_ctarank": np.uint32(0),
        "cluster_nctarank": np.uint32(1),
        "is_explicit_cluster": np.bool_(False),
    }
    if base not in values:
        raise Unsupported(f"special register {name}")
    return values[base]
