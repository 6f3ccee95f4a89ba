// Loads and stores of the last, partial vector of a row. Included once per instruction set, after its Vec.

template <class T>
inline Vec load_some(const T* p, int count) {
  return count == Vec::kWidth ? Vec::load(p) : Vec::load(p, count);
}

template <class T>
inline void store_some(Vec v, T* p, int count) {
  count == Vec::kWidth ? v.store(p) : v.store(p, count);
}
