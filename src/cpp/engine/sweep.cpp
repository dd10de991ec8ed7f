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
      dz_(tape.cut.chunk_steps() * s_.batch, s_.hidden),
      carry_(s_.batch, s_.hidden) {}

template <class Real>
void Sweep<Real>::run(Upstream<Real>& upstream, int member, Barrier& barrier) {
    const std::size_t H = s_.hidden;
    const Part<Real> part(s_, division_, member);
    const Matrix<Real> carry = part.of(carry_.matrix(), part.samples.begin);
    weights_.prepare(member);
    if (d_state_ != nullptr)
        k_.copy(part.samples.size(), part.cols, part.of(d_state_, H, part.samples.begin), carry);
    else
        k_.zero(part.samples.size(), part.cols, carry);
    for (std::size_t i = tape_.cut.chunks(); i-- > 0;) {
        const Chunk chunk = tape_.cut.chunk(i);
        upstream.prepare_chunk(chunk, member, barrier, dz_.matrix());
        part.for_each_piece(tape_.cut, [&](const Piece& piece) { sweep_piece(chunk, upstream, part, piece, barrier); });
        barrier.wait();
        weights_.add(chunk, dz_.matrix(), member);
        barrier.wait();
    }
    weights_.finish(member);
    if (g_.state != nullptr) k_.copy(part.samples.size(), part.cols, carry, part.of(g_.state, H, part.samples.begin));
}

template <class Real>
void Sweep<Real>::sweep_piece(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, const Piece& piece,
                              Barrier& barrier) {
    const std::size_t H = s_.hidden, n = piece.size(), S = chunk.steps;
    const Matrix<Real> h = tape_.h(chunk), dz = dz_.matrix(), carry = part.of(carry_.matrix(), piece.samples.begin);
    const Matrix<const Real> w_hh = tape_.weight_hh.matrix().panels_from(part.panels.begin);
    const Cell<Real>& cell = k_.elman[int(s_.nonlinearity)];
    for (std::size_t s = S; s-- > 0;) {
        const Matrix<Real> dz_t = part.of(dz, piece.row(S, s));
        const Matrix<const Real> upstream_t = upstream.at(chunk, s, part, piece, dz);
        // dh_t = upstream_t + dz_{t+1} W_hh
        if (s + 1 == S) {
            k_.product(n, part.cols, nullptr, 0, upstream_t, dz_t, {});
            k_.add(n, part.cols, carry, dz_t);
        } else {
            Ahead<Real> ahead;
            ahead.matrix[0] = part.of(h, piece.row(S + 1, s));
            if (s != 0) ahead.matrix[1] = upstream.at(chunk, s - 1, part, piece, dz);
            const Term<Real> later{dz.rows_from(piece.row(S, s + 1)), w_hh, H};
            k_.product(n, part.cols, &later, 1, upstream_t, dz_t, ahead);
        }
        if (g_.hidden != nullptr)
            k_.copy(n, part.cols, dz_t, part.of(g_.hidden, H, (chunk.first_step + s) * s_.batch + piece.samples.begin));
        // dz_t = phi'(z_t) * dh_t
        cell.backward(n, part.panels.size(), part.of(h, piece.row(S + 1, s + 1)), dz_t);
        if (division_.by_columns) barrier.wait();
    }
    // What the chunk before receives: dL/dh through this chunk.
    const Term<Real> later{dz.rows_from(piece.row(S, 0)), w_hh, H};
    k_.product(n, part.cols, &later, 1, none<Real>(), carry, {});
}

template class Sweep<float>;
template class Sweep<double>;

}  // namespace pybptt
