#include "engine/truncated.hpp"

namespace pybptt {

template <class Real>
TruncatedSweep<Real>::TruncatedSweep(const UnitTape<Real>& tape, int threads, std::size_t truncation,
                                     const RnnParameterGradients<Real>& gradients, const InputGradient<Real>& input)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      threads_(threads),
      truncation_(truncation),
      dx_(s_.steps * s_.batch, s_.inputs),
      weights_(tape, threads, gradients, input, dx_),
      dz_(s_.steps * s_.batch, s_.hidden),
      e_(s_.steps * s_.batch, s_.hidden),
      e_next_(s_.steps * s_.batch, s_.hidden) {}

template <class Real>
void TruncatedSweep<Real>::run(Upstream<Real>& upstream, int member, Barrier& barrier) {
    const std::size_t B = s_.batch, H = s_.hidden, panels = panel_count<Real>(H);
    CellSweep<Real> step{};
    step.clip = Real(s_.cell.clip);
    weights_.prepare(member);
    if (s_.steps != 0) {
        const Chunk all = tape_.cut.chunk(0);
        const Matrix<Real> h = tape_.h(all).rows_from(B), dz = dz_.matrix();
        Matrix<Real> e = e_.matrix(), next = e_next_.matrix();
        upstream.prepare_chunk(all, member, barrier, e);
        for (std::size_t j = 0; j <= truncation_ && j < s_.steps; ++j) {
            const Range own = share((s_.steps - j) * B, 1, member, threads_);
            const Matrix<Real> own_e = e.rows_from(own.begin), own_dz = dz.rows_from(own.begin);
            if (j != 0) {
                // e_tau = e_{tau+1} W_hh
                const Term<Real> later{next.rows_from(own.begin + B), tape_.weight_hh.matrix(), H};
                k_.product(own.size(), H, &later, 1, none<Real>(), own_e, {});
            }
            // e_tau *= phi'(z_tau),  dz_tau += e_tau
            step.h = h.rows_from(own.begin);
            step.dz = own_e;
            tape_.cell.backward[0](own.size(), panels, step);
            if (j == 0)
                k_.copy(own.size(), H, own_e, own_dz);
            else
                k_.add(own.size(), H, own_e, own_dz);
            barrier.wait();
            std::swap(e, next);
        }
        weights_.add(all, dz, member);
    }
    weights_.finish(member);
}

template class TruncatedSweep<float>;
template class TruncatedSweep<double>;

}  // namespace pybptt
