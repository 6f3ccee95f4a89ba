"""The kernels themselves; each file opens with its plan. Sizes and strides count elements."""
