// Networks whose calls take several threads, and all that is computed of one.
#pragma once

#include "network.hpp"

namespace pybptt::test {

/// x has a few distinct rows, which return in some order.
inline Network with_repeated_rows(Network n, std::size_t distinct) {
    const std::size_t D = n.sizes.inputs;
    for (std::size_t row = distinct; row < n.rows(); ++row)
        std::copy_n(n.x.begin() + std::ptrdiff_t(row * row / 3 % distinct * D), D, n.x.begin() + std::ptrdiff_t(row * D));
    return n;
}

/// Large enough for seven threads: by rows of the batch, by columns of h, tokens with a wide output layer, one long sequence;
/// gates, phases, layers, directions and ragged batches; rows of x that repeat.
inline std::vector<Network> large_networks() {
    std::vector<Network> all;
    const auto add = [&](RnnSizes sizes, std::size_t outputs, bool tokens, Loss loss, bool ragged = false, bool masked = false) {
        Network n;
        n.sizes = sizes;
        n.outputs = outputs;
        n.tokens = tokens;
        n.loss = loss;
        n.ragged = ragged;
        n.masked = masked;
        all.push_back(n.fill(all.size() + 1));
    };
    CellConfig sigmoid, relu, lstm, gru;
    sigmoid.nonlinearity = Nonlinearity::sigmoid;
    relu.nonlinearity = Nonlinearity::relu;
    lstm.kind = CellKind::lstm;
    lstm.peephole = true;
    gru.kind = CellKind::gru;
    gru.reset_after = false;
    add({40, 32, 40, 70}, 10, false, Loss::cross_entropy);
    add({22, 2, 33, 325}, 35, false, Loss::squared_error);
    add({40, 7, 50, 130, sigmoid}, 700, true, Loss::cross_entropy);
    add({700, 8, 3, 34, relu}, 3, false, Loss::squared_error);
    add({7, 2, 9, 110, lstm, 2, 2}, 5, false, Loss::cross_entropy, true, true);
    add({14, 3, 9, 90, gru, 3, 1}, 5, true, Loss::squared_error, true);
    add({12, 33, 9, 35, gru, 2, 1}, 40, false, Loss::cross_entropy, true, true);
    add({40, 3, 9, 90, lstm, 2, 1}, 5, false, Loss::squared_error, true);
    all.back() = projected(all.back(), 67);
    add({40, 32, 33, 35, gru}, 3, false, Loss::cross_entropy);
    all.back() = with_repeated_rows(all.back(), 50);
    add({40, 33, 40, 20, lstm, 1, 2}, 3, false, Loss::squared_error, true);
    all.back() = with_repeated_rows(all.back(), 20);
    return all;
}

template <class Real>
std::vector<Result> all_results(const Network& n) {
    std::vector<Result> all = {core_layer<Real>(n), core_infer<Real>(n), core_model<Real>(n), core_loss<Real>(n),
                               core_predict<Real>(n)};
    if (n.sizes.cell.kind == CellKind::elman || (n.sizes.projection != 0 && n.sizes.directions == 1))
        all.push_back(core_model<Real>(n, Ask::everything, windows(1, 4)));
    return all;
}
template <class Real>
std::string difference_of_all(const std::vector<Result>& expected, const Network& n) {
    const std::vector<Result> got = all_results<Real>(n);
    std::string all;
    for (std::size_t i = 0; i < expected.size(); ++i) all += difference(expected[i], got[i], 0);
    return all;
}

}  // namespace pybptt::test
