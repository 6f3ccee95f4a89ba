// From a dtype to a type. Included once per instruction set, inside its namespace and target pragma.

// Calls f with a value of the element type.
template <class F>
inline void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f16: return f(float16{});
    case DType::bf16: return f(bfloat16{});
  }
}
