"""Drop-in ``nn.Module`` versions of the operators."""

from .conv import Conv3x3, Conv7x7, KeepsPackedWeights, PixelShuffleConv, ResidualBlock
from .quantized import QuantizedConv3x3
from .rep import RepConv3x3
from .sparse import SparseConv3x3, SparseResidualBlock
from .warp import FlowWarp

__all__ = [
    "Conv3x3",
    "Conv7x7",
    "FlowWarp",
    "KeepsPackedWeights",
    "PixelShuffleConv",
    "QuantizedConv3x3",
    "RepConv3x3",
    "ResidualBlock",
    "SparseConv3x3",
    "SparseResidualBlock",
]
