#include <cuda_bf16.h>
#include <mma.h>
using namespace nvcuda;
template <typename T, typename A, typename LA, typename LB, int M, int N>
__device__ void product(const T *a, const T *b, A *c, int m, int n, int k, int lda, int ldb) {
  int tm = (blockIdx.x * blockDim.x + threadIdx.x) / 32, tn = blockIdx.y;
  wmma::fragment<wmma::matrix_a, M, N, 16, T, LA> fa;
  wmma::fragment<wmma::matrix_b, M, N, 16, T, LB> fb;
  wmma::fragment<wmma::accumulator, M, N, 16, A> fc;
  wmma::fill_fragment(fc, A(0));
  for (int i = 0; i < k; i += 16) {
    wmma::load_matrix_sync(fa, std::is_same<LA, wmma::row_major>::value ? a + tm * M * lda + i : a + i * lda + tm * M,
                           lda);
    wmma::load_matrix_sync(fb, std::is_same<LB, wmma::row_major>::value ? b + i * ldb + tn * N : b + tn * N * ldb + i,
                           ldb);
    wmma::mma_sync(fc, fa, fb, fc);
  }
  for (int i = 0; i < fc.num_elements; i++) fc.x[i] = fc.x[i] + fc.x[i];
  wmma::store_matrix_sync(c + tm * M * n + tn * N, fc, n, wmma::mem_row_major);
}
#define R wmma::row_major
#define C wmma::col_major
__global__ void half_rr(const half *a, const half *b, float *c, int m, int n, int k) {
  product<half, float, R, R, 16, 16>(a, b, c, m, n, k, k, n);
}
__global__ void half_cr(const half *a, const half *b, float *c, int m, int n, int k) {
  product<half, float, C, R, 16, 16>(a, b, c, m, n, k, m, n);
}
__global__ void half_acc(const half *a, const half *b, half *c, int m, int n, int k) {
  product<half, half, R, C, 32, 8>(a, b, c, m, n, k, k, k);
}
__global__ void bf16_rc(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int m, int n, int k) {
  product<__nv_bfloat16, float, R, C, 16, 16>(a, b, c, m, n, k, k, k);
}
__global__ void int8_rc(const signed char *a, const signed char *b, int *c, int m, int n, int k) {
  product<signed char, int, R, C, 16, 16>(a, b, c, m, n, k, k, k);
}
