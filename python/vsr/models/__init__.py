"""Networks, their checkpoints and their pretrained weights.

The networks need torch, which is imported with the first of their names; the files of weights are had without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsr.lazy import names_from
from vsr.models import weights

if TYPE_CHECKING:
    from vsr.models.base import Upscaler
    from vsr.models.basicvsr import BasicVSR, BasicVSRState
    from vsr.models.edsr import EDSR
    from vsr.models.load import load_model, load_spynet, save_model
    from vsr.models.pruned import Pruned, PrunedBasicVSR, PrunedEDSR, PrunedSRVGGNet
    from vsr.models.quantized import QuantizedSRVGGNet
    from vsr.models.spynet import SPyNet
    from vsr.models.srvgg import RepSRNet, SRVGGNet
else:
    __getattr__ = names_from(
        __name__,
        {
            "BasicVSR": "basicvsr",
            "BasicVSRState": "basicvsr",
            "EDSR": "edsr",
            "Pruned": "pruned",
            "PrunedBasicVSR": "pruned",
            "PrunedEDSR": "pruned",
            "PrunedSRVGGNet": "pruned",
            "QuantizedSRVGGNet": "quantized",
            "RepSRNet": "srvgg",
            "SPyNet": "spynet",
            "SRVGGNet": "srvgg",
            "Upscaler": "base",
            "load_model": "load",
            "load_spynet": "load",
            "save_model": "load",
        },
    )

__all__ = [
    "EDSR",
    "BasicVSR",
    "BasicVSRState",
    "Pruned",
    "PrunedBasicVSR",
    "PrunedEDSR",
    "PrunedSRVGGNet",
    "QuantizedSRVGGNet",
    "RepSRNet",
    "SPyNet",
    "SRVGGNet",
    "Upscaler",
    "load_model",
    "load_spynet",
    "save_model",
    "weights",
]
