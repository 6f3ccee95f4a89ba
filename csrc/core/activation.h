// Activations of the convolution epilogue.
#pragma once

namespace vsr {

enum class Activation { none, relu, leaky_relu, prelu };

}  // namespace vsr
