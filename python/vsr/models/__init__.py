"""Networks, their checkpoints and their pretrained weights."""

from __future__ import annotations

from vsr.models import weights
from vsr.models.base import Upscaler
from vsr.models.basicvsr import BasicVSR, BasicVSRState
from vsr.models.load import load_model, load_spynet, save_model
from vsr.models.spynet import SPyNet
from vsr.models.srvgg import RepSRNet, SRVGGNet

__all__ = [
    "BasicVSR",
    "BasicVSRState",
    "RepSRNet",
    "SPyNet",
    "SRVGGNet",
    "Upscaler",
    "load_model",
    "load_spynet",
    "save_model",
    "weights",
]
