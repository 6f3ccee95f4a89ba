// Strides of an image tensor.
#pragma once

#include "core/platform.h"

namespace vsr {

struct Strides {  // in elements
  int64_t n, c, h, w;
};

}  // namespace vsr
