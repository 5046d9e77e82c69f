#include "calibrate/accumulate.h"

#include "core/blas.h"

namespace arrow_quant {

void accumulate_gram(const float* x, size_t tokens, float weight, ThreadPool& pool,
                     const std::function<void()>& poll, GramMatrix& gram) {
  const blas::Serial serial;
  const size_t channels = gram.channels();
  pool.parallel_for(
      gram.tiles().size(),
      [&](size_t index, int) {
        const GramMatrix::Tile& tile = gram.tiles()[index];
        float* to = gram.values().data() + tile.offset;
        if (tile.row == tile.column) {
          blas::add_gram(tile.rows, tokens, weight, x + tile.row, channels, to, tile.columns);
        } else {
          blas::gemm(tile.rows, tile.columns, tokens, weight,
                     {x + tile.row, channels, blas::Op::kTransposed}, {x + tile.column, channels},
                     1.0F, to, tile.columns);
        }
      },
      poll);
}

}  // namespace arrow_quant
