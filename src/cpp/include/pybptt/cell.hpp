// Which cell a layer is made of. Its equations are in kernels/cells.
#pragma once

namespace pybptt {

/// phi in h_t = phi(z_t) of the Elman cell.
enum class Nonlinearity { tanh, relu, sigmoid, identity };
constexpr int kNonlinearities = 4;

enum class CellKind { elman, lstm, gru };

struct CellConfig {
    CellKind kind = CellKind::elman;
    Nonlinearity nonlinearity = Nonlinearity::tanh;  // of elman
    bool peephole = false;                           // of lstm: i, f and o see the cell state
    bool coupled = false;                            // of lstm: f = 1 - i
    bool reset_after = true;                         // of gru: r after W_hn (PyTorch, cuDNN) or before it (Cho 2014)
    double clip = 0;                                 // bound of what activations receive; 0: none

    /// G: rows of the weights are G runs of H.
    int gates() const {
        switch (kind) {
            case CellKind::elman: return 1;
            case CellKind::lstm: return coupled ? 3 : 4;
            case CellKind::gru: return 3;
        }
        return 0;
    }
    /// Rows of the peephole weights: i, f, o, or i, o.
    int peepholes() const { return !peephole ? 0 : coupled ? 2 : 3; }
    /// Whether there is a cell state c_t beside h_t.
    bool has_cell_state() const { return kind == CellKind::lstm; }
};

}  // namespace pybptt
