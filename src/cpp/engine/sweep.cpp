#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
Sweep<Real>::Sweep(const typename Tape<Real>::Contents& tape, const Division& division, const Real* d_state,
                   const RnnGradients<Real>& gradients)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      division_(division),
      d_state_(d_state),
      g_(gradients),
      weights_(tape, division.threads, gradients),
      dz_(tape.chunks.longest() * s_.batch, s_.hidden),
      carry_(s_.batch, s_.hidden) {}

template <class Real>
void Sweep<Real>::run(Upstream<Real>& upstream, int member, Barrier& barrier) {
    const std::size_t H = s_.hidden;
    const Part<Real> part(s_, division_, member);
    const std::size_t state_at = part.rows.begin * H + part.panels.begin * kLanes<Real>;
    const Matrix<Real> carry = part.of(carry_.matrix(), 0);
    weights_.prepare(member);
    if (d_state_ != nullptr)
        k_.copy(part.rows.size(), part.cols, row_major(d_state_ + state_at, H), carry);
    else
        k_.zero(part.rows.size(), part.cols, carry);
    for (std::size_t i = tape_.chunks.count(); i-- > 0;) {
        const Chunk chunk = tape_.chunks[i];
        upstream.prepare_chunk(chunk, member, barrier, dz_.matrix());
        sweep_chunk(chunk, upstream, part, barrier);
        barrier.wait();
        weights_.add(chunk, dz_.matrix(), member);
        barrier.wait();
    }
    weights_.finish(member);
    if (g_.state != nullptr) k_.copy(part.rows.size(), part.cols, carry, row_major(g_.state + state_at, H));
}

template <class Real>
void Sweep<Real>::sweep_chunk(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, Barrier& barrier) {
    const std::size_t B = s_.batch, H = s_.hidden, rows = part.rows.size(), first_col = part.panels.begin * kLanes<Real>;
    const Matrix<Real> h = tape_.h(chunk), dz = dz_.matrix();
    const Matrix<const Real> w_hh = tape_.weight_hh.matrix().panels_from(part.panels.begin);
    const Cell<Real>& cell = k_.elman[int(s_.nonlinearity)];
    for (std::size_t s = chunk.steps; s-- > 0;) {
        const Matrix<Real> dz_t = part.of(dz, s * B);
        const Matrix<const Real> upstream_t = upstream.at(chunk, s, part, dz);
        // dh_t = upstream_t + dz_{t+1} W_hh
        if (s + 1 == chunk.steps) {
            k_.product(rows, part.cols, nullptr, 0, upstream_t, dz_t, {});
            k_.add(rows, part.cols, part.of(carry_.matrix(), 0), dz_t);
        } else {
            Ahead<Real> ahead;
            ahead.matrix[0] = part.of(h, s * B);
            if (s != 0) ahead.matrix[1] = upstream.at(chunk, s - 1, part, dz);
            const Term<Real> later{dz.rows_from((s + 1) * B + part.rows.begin), w_hh, H};
            k_.product(rows, part.cols, &later, 1, upstream_t, dz_t, ahead);
        }
        if (g_.hidden != nullptr)
            k_.copy(rows, part.cols, dz_t,
                    row_major(g_.hidden + ((chunk.first_step + s) * B + part.rows.begin) * H + first_col, H));
        // dz_t = phi'(z_t) * dh_t
        cell.backward(rows, part.panels.size(), part.of(h, (s + 1) * B), dz_t);
        if (division_.by_columns) barrier.wait();
    }
    // What the chunk before receives: dL/dh through this chunk.
    const Term<Real> later{dz.rows_from(part.rows.begin), w_hh, H};
    k_.product(rows, part.cols, &later, 1, none<Real>(), part.of(carry_.matrix(), 0), {});
}

template class Sweep<float>;
template class Sweep<double>;

}  // namespace pybptt
