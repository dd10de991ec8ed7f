// The batched, memoised sweep written with Eigen, as straightforwardly as it reads: one expression an
// equation. Built for the benchmark alone, by contestants/with_eigen.py.
//
// Every matrix is row-major, time folded into the rows: row t*B + b is step t of sequence b.
//   z_t  = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        h_t = tanh(z_t)
//   dz_t = (1 - h_t²) * (dL/dh_t from above + W_hhᵀ dz_{t+1})
//   dW_hh = Σ dz_tᵀ h_{t-1}    dW_ih = Σ dz_tᵀ x_t    db = Σ dz_t

#include <Eigen/Core>
#include <cstdint>

namespace {

using Eigen::Index;

template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using RowVector = Eigen::Matrix<S, 1, Eigen::Dynamic>;
template <class S>
using In = Eigen::Map<const Matrix<S>>;
template <class S>
using InVector = Eigen::Map<const RowVector<S>>;
template <class S>
using Out = Eigen::Map<Matrix<S>>;
template <class S>
using OutVector = Eigen::Map<RowVector<S>>;

struct Sizes {
    Index T, B, D, H, Q;
};

// States h_0 = 0, h_1, ..., h_T, ((T+1)*B, H), from the input's projection, (T*B, H), which becomes z.
template <class S>
Matrix<S> forward(const Sizes& n, Matrix<S>& z, const S* W_hh, const S* b_ih, const S* b_hh) {
    const In<S> W(W_hh, n.H, n.H);
    z.rowwise() += InVector<S>(b_ih, n.H) + InVector<S>(b_hh, n.H);
    Matrix<S> h((n.T + 1) * n.B, n.H);
    h.topRows(n.B).setZero();
    for (Index t = 0; t < n.T; ++t) {
        auto z_t = z.middleRows(t * n.B, n.B);
        z_t.noalias() += h.middleRows(t * n.B, n.B) * W.transpose();
        h.middleRows((t + 1) * n.B, n.B) = z_t.array().tanh();
    }
    return h;
}

// The sweep. dz, (T*B, H), comes in as dL/dh_t from above and leaves as dL/dz_t.
template <class S>
void backward(const Sizes& n, const Matrix<S>& h, Matrix<S>& dz, const S* W_hh, S* dW_hh, S* db) {
    const In<S> W(W_hh, n.H, n.H);
    for (Index t = n.T - 1; t >= 0; --t) {
        auto dz_t = dz.middleRows(t * n.B, n.B);
        if (t + 1 < n.T) dz_t.noalias() += dz.middleRows((t + 1) * n.B, n.B) * W;
        dz_t.array() *= S(1) - h.middleRows((t + 1) * n.B, n.B).array().square();
    }
    Out<S>(dW_hh, n.H, n.H).noalias() = dz.transpose() * h.topRows(n.T * n.B);
    OutVector<S>(db, n.H) = dz.colwise().sum();
}

// The layer alone: x (T*B, D), d_output (T*B, H), and the gradients of the parameters.
template <class S>
void layer_step(const Sizes& n, const S* x, const S* d_output, const S* W_ih, const S* W_hh, const S* b_ih, const S* b_hh, S* dW_ih,
                S* dW_hh, S* db) {
    const Index rows = n.T * n.B;
    const In<S> X(x, rows, n.D);
    Matrix<S> z(rows, n.H);
    z.noalias() = X * In<S>(W_ih, n.H, n.D).transpose();
    const Matrix<S> h = forward(n, z, W_hh, b_ih, b_hh);
    Matrix<S> dz = In<S>(d_output, rows, n.H);
    backward(n, h, dz, W_hh, dW_hh, db);
    Out<S>(dW_ih, n.H, n.D).noalias() = dz.transpose() * X;
}

// The whole model: token ids (T*B), classes y (T*B), mean cross-entropy over an output layer W_o (Q, H), b_o
// (Q).
template <class S>
void model_step(const Sizes& n, const std::int64_t* tokens, const std::int64_t* y, const S* W_ih, const S* W_hh, const S* b_ih,
                const S* b_hh, const S* W_o, const S* b_o, S* dW_ih, S* dW_hh, S* db, S* dW_o, S* db_o) {
    const Index rows = n.T * n.B;
    const In<S> columns(W_ih, n.H, n.D), output_weight(W_o, n.Q, n.H);
    Matrix<S> z(rows, n.H);
    for (Index r = 0; r < rows; ++r) z.row(r) = columns.col(tokens[r]).transpose();
    const Matrix<S> h = forward(n, z, W_hh, b_ih, b_hh);
    const auto output = h.bottomRows(rows);

    Matrix<S> p(rows, n.Q);  // logits, then probabilities, then dL/dlogits
    p.noalias() = output * output_weight.transpose();
    p.rowwise() += InVector<S>(b_o, n.Q);
    for (Index r = 0; r < rows; ++r) {
        auto row = p.row(r).array();
        row = (row - row.maxCoeff()).exp();
        row *= S(1) / (row.sum() * S(rows));
        p(r, y[r]) -= S(1) / S(rows);
    }
    Matrix<S> dz(rows, n.H);
    dz.noalias() = p * output_weight;
    Out<S>(dW_o, n.Q, n.H).noalias() = p.transpose() * output;
    OutVector<S>(db_o, n.Q) = p.colwise().sum();

    backward(n, h, dz, W_hh, dW_hh, db);
    Out<S> d_columns(dW_ih, n.H, n.D);
    d_columns.setZero();
    for (Index r = 0; r < rows; ++r) d_columns.col(tokens[r]) += dz.row(r).transpose();
}

}  // namespace

#define EXPORT(S, name)                                                                                                            \
    extern "C" void layer_##name(Index T, Index B, Index D, Index H, const S* x, const S* d_output, const S* W_ih, const S* W_hh,  \
                                 const S* b_ih, const S* b_hh, S* dW_ih, S* dW_hh, S* db) {                                        \
        layer_step<S>({T, B, D, H, 0}, x, d_output, W_ih, W_hh, b_ih, b_hh, dW_ih, dW_hh, db);                                     \
    }                                                                                                                              \
    extern "C" void model_##name(Index T, Index B, Index D, Index H, Index Q, const std::int64_t* tokens, const std::int64_t* y,   \
                                 const S* W_ih, const S* W_hh, const S* b_ih, const S* b_hh, const S* W_o, const S* b_o, S* dW_ih, \
                                 S* dW_hh, S* db, S* dW_o, S* db_o) {                                                              \
        model_step<S>({T, B, D, H, Q}, tokens, y, W_ih, W_hh, b_ih, b_hh, W_o, b_o, dW_ih, dW_hh, db, dW_o, db_o);                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)

extern "C" void set_num_threads(int n) { Eigen::setNbThreads(n); }
extern "C" const char* version() {
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
    return TEXT(EIGEN_WORLD_VERSION) "." TEXT(EIGEN_MAJOR_VERSION) "." TEXT(EIGEN_MINOR_VERSION);
}
