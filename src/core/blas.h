// Dense linear algebra in f32: the few OpenBLAS routines the engine needs, row-major.
//
// Every routine runs on the calling thread alone as long as a Serial object exists. The engine
// splits work into tiles of fixed size and gives them to its own pool, so that results do not
// depend on the number of threads. Matrices hold fewer than 2^31 rows and columns; strides are in
// elements.
#pragma once

#include <cstddef>
#include <string>

namespace arrow_quant::blas {

/// Keeps OpenBLAS from using threads of its own while any object of this class exists; the caller's
/// setting comes back with the last one. Thread-safe.
class Serial {
 public:
  Serial();
  ~Serial();
  Serial(const Serial&) = delete;
  Serial& operator=(const Serial&) = delete;
};

enum class Op : bool { kPlain, kTransposed };

/// An operand: rows lie `stride` apart; `op` says how it enters the product.
struct Operand {
  const float* data = nullptr;
  size_t stride = 0;
  Op op = Op::kPlain;
};

/// c[m][n] = alpha * a b + beta * c, where a is [m][k] and b is [k][n] after their `op`.
void gemm(size_t m, size_t n, size_t k, float alpha, const Operand& a, const Operand& b, float beta,
          float* c, size_t c_stride) noexcept;

/// Upper triangle of c[n][n] += alpha * x^T x for x[k][n].
void add_gram(size_t n, size_t k, float alpha, const float* x, size_t x_stride, float* c,
              size_t c_stride) noexcept;

/// Cholesky: replace the lower triangle of a[n][n] by L with a = L L^T. Return false, with `a` half
/// done, when a leading minor is not positive (or not a number).
bool cholesky(size_t n, float* a, size_t stride) noexcept;

/// b[m][n] = b L^-T for the lower triangle L[n][n].
void solve_right_transposed(size_t m, size_t n, const float* lower, size_t lower_stride, float* b,
                            size_t b_stride) noexcept;

/// Replace the lower triangle of a[n][n], whose diagonal has no zero, by its inverse.
void invert_lower(size_t n, float* a, size_t stride) noexcept;

/// Name, version and kernels of the library in use.
std::string describe();

}  // namespace arrow_quant::blas
