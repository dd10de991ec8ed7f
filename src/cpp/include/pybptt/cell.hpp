// Which cell a layer is made of. Its equations, and all else that it declares, are in kernels/cells.
#pragma once

#include "pybptt/export.h"

namespace pybptt {

/// phi in h_t = phi(z_t) of the Elman cell.
enum class Nonlinearity { tanh, relu, sigmoid, identity };
constexpr int kNonlinearities = 4;

enum class CellKind { elman, lstm, gru };
constexpr int kCellKinds = 3;

struct CellConfig {
    CellKind kind = CellKind::elman;
    Nonlinearity nonlinearity = Nonlinearity::tanh;  // of elman
    bool peephole = false;                           // of lstm: i, f and o see the cell state
    bool coupled = false;                            // of lstm: f = 1 - i
    bool reset_after = true;                         // of gru: r after W_hn (PyTorch, cuDNN) or before it (Cho 2014)
    double clip = 0;                                 // bound of what activations receive; 0: none

    // What the cell declares in its own file.
    /// G: rows of the weights are G times H.
    PYBPTT_API int gates() const;
    /// Parameter vectors of H values: an LSTM's peepholes i f o (coupled: i o).
    PYBPTT_API int vectors() const;
    /// Whether there is a cell state c_t beside h_t.
    PYBPTT_API bool has_cell_state() const;
    /// Whether h_t may be a projection of what the cell makes.
    PYBPTT_API bool projectable() const;
};

}  // namespace pybptt
