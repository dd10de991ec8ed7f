#include "engine/predict.hpp"

namespace pybptt {

template <class Real>
PredictPass<Real>::PredictPass(const OutputRows<Real>& rows, int team, const PackedOutput<Real>& packed, std::size_t outputs,
                               Real* output)
    : k_(kernels<Real>()),
      rows_(rows),
      packed_(packed),
      outputs_(outputs),
      output_(output),
      block_rows_(std::min<std::size_t>(256, rows.most_rows())),
      h_(block_rows_, rows.width(), std::size_t(team)),
      o_(block_rows_, outputs, std::size_t(team)) {}

template <class Real>
void PredictPass<Real>::run(const Chunk& chunk, const Member& member) {
    const std::size_t H = rows_.width(), Q = outputs_;
    const Range own = member.share(chunk.rows, 1);
    const Matrix<Real> h = h_.matrix(std::size_t(member.index)), o = o_.matrix(std::size_t(member.index));
    member.wait();
    for (std::size_t first = own.begin; first < own.end; first += block_rows_) {
        const std::size_t rows = std::min(block_rows_, own.end - first);
        rows_.for_each_rows(chunk, first, rows, [&](std::size_t row, std::size_t n, Matrix<const Real> from, const Rows&) {
            k_.copy(n, H, from, h.rows_from(row - first));
        });
        const Term<Real> term{h, packed_.weight_t.matrix(), H};  // rows past a sequence's end are not copied out
        k_.product(rows, Q, &term, 1, every_row<Real>(packed_.bias.data()), o, {});
        rows_.for_each_rows(chunk, first, rows, [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& to) {
            k_.copy(n, Q, o.rows_from(row - first), UserRows<Real>{output_, Q}.at(to));
        });
    }
    member.wait();
}

template class PredictPass<float>;
template class PredictPass<double>;

}  // namespace pybptt
