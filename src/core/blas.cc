#include "core/blas.h"

#include <cblas.h>

#include <cmath>
#include <mutex>

// The wheel's names start with a prefix; its header knows, the LAPACK names are not in it.
#ifdef ARROW_QUANT_BLAS_PREFIX
#define AQ_JOIN2(a, b) a##b
#define AQ_JOIN(a, b) AQ_JOIN2(a, b)
#define AQ_BLAS(name) AQ_JOIN(ARROW_QUANT_BLAS_PREFIX, name)
#else
#define AQ_BLAS(name) name
#endif

extern "C" {
void AQ_BLAS(spotrf_)(const char* uplo, const blasint* n, float* a, const blasint* lda,
                      blasint* info);
void AQ_BLAS(strtri_)(const char* uplo, const char* diag, const blasint* n, float* a,
                      const blasint* lda, blasint* info);
}

namespace arrow_quant::blas {
namespace {

std::mutex serial_mutex;
int serial_users = 0;
int threads_before = 0;

blasint to_int(size_t n) noexcept { return static_cast<blasint>(n); }

CBLAS_TRANSPOSE to_cblas(Op op) noexcept { return op == Op::kPlain ? CblasNoTrans : CblasTrans; }

}  // namespace

Serial::Serial() {
  const std::lock_guard lock(serial_mutex);
  if (serial_users++ > 0) return;
  threads_before = AQ_BLAS(openblas_get_num_threads)();
  AQ_BLAS(openblas_set_num_threads)(1);
}

Serial::~Serial() {
  const std::lock_guard lock(serial_mutex);
  if (--serial_users == 0) AQ_BLAS(openblas_set_num_threads)(threads_before);
}

void gemm(size_t m, size_t n, size_t k, float alpha, const Operand& a, const Operand& b, float beta,
          float* c, size_t c_stride) noexcept {
  if (m == 0 || n == 0) return;
  AQ_BLAS(cblas_sgemm)
  (CblasRowMajor, to_cblas(a.op), to_cblas(b.op), to_int(m), to_int(n), to_int(k), alpha, a.data,
   to_int(a.stride), b.data, to_int(b.stride), beta, c, to_int(c_stride));
}

void add_gram(size_t n, size_t k, float alpha, const float* x, size_t x_stride, float* c,
              size_t c_stride) noexcept {
  if (n == 0 || k == 0) return;
  AQ_BLAS(cblas_ssyrk)
  (CblasRowMajor, CblasUpper, CblasTrans, to_int(n), to_int(k), alpha, x, to_int(x_stride), 1.0F, c,
   to_int(c_stride));
}

// LAPACK is column-major: the lower triangle of a row-major matrix is its upper one.
bool cholesky(size_t n, float* a, size_t stride) noexcept {
  const blasint size = to_int(n), lda = to_int(stride);
  blasint info = 0;
  AQ_BLAS(spotrf_)("U", &size, a, &lda, &info);
  if (info != 0) return false;
  // A NaN or infinity anywhere spreads to the diagonal, which LAPACK does not notice.
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(a[i * stride + i])) return false;
  }
  return true;
}

void solve_right_transposed(size_t m, size_t n, const float* lower, size_t lower_stride, float* b,
                            size_t b_stride) noexcept {
  if (m == 0 || n == 0) return;
  AQ_BLAS(cblas_strsm)
  (CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, to_int(m), to_int(n), 1.0F,
   lower, to_int(lower_stride), b, to_int(b_stride));
}

void invert_lower(size_t n, float* a, size_t stride) noexcept {
  const blasint size = to_int(n), lda = to_int(stride);
  blasint info = 0;
  AQ_BLAS(strtri_)("U", "N", &size, a, &lda, &info);
}

std::string describe() { return AQ_BLAS(openblas_get_config)(); }

}  // namespace arrow_quant::blas
