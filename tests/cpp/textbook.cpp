#include "network.hpp"

namespace pybptt::test {

namespace {

double phi(Nonlinearity nonlinearity, double z) {
    switch (nonlinearity) {
        case Nonlinearity::tanh: return std::tanh(z);
        case Nonlinearity::relu: return std::max(z, 0.0);
        case Nonlinearity::sigmoid: return 1 / (1 + std::exp(-z));
        default: return z;
    }
}
double slope(Nonlinearity nonlinearity, double h) {
    switch (nonlinearity) {
        case Nonlinearity::tanh: return 1 - h * h;
        case Nonlinearity::relu: return h > 0;
        case Nonlinearity::sigmoid: return h * (1 - h);
        default: return 1;
    }
}

class Textbook {
public:
    explicit Textbook(const Network& network) : n(network) {
        h.assign((T + 1) * B * H, 0);
        if (n.initial_state) std::copy(n.state.begin(), n.state.end(), h.begin());
        for (std::size_t t = 0; t < T; ++t)
            for (std::size_t b = 0; b < B; ++b)
                for (std::size_t u = 0; u < H; ++u) {
                    double z = n.bias ? n.bias_ih[u] + n.bias_hh[u] : 0;
                    for (std::size_t d = 0; d < D; ++d) z += n.weight_ih[u * D + d] * input(t, b, d);
                    for (std::size_t v = 0; v < H; ++v) z += n.weight_hh[u * H + v] * before(t, b)[v];
                    state(t, b)[u] = phi(n.sizes.nonlinearity, z);
                }
        result.output.assign(h.begin() + std::ptrdiff_t(B * H), h.end());
        result.final_state.assign(h.end() - std::ptrdiff_t(B * H), h.end());
        result.weight_ih.assign(H * D, 0);
        result.weight_hh.assign(H * H, 0);
        result.bias_ih.assign(H, 0);
        if (!n.tokens) result.x.assign(T * B * D, 0);
        result.state.assign(B * H, 0);
        result.hidden.assign(T * B * H, 0);
    }

    /// Sends dL/dh_t of sample b back, to its step and to `truncation` ones before.
    void go_back(std::size_t t, std::size_t b, Values dh, std::size_t truncation) {
        for (std::size_t past = 0;; ++past, --t) {
            Values dz(H), earlier(H);
            for (std::size_t u = 0; u < H; ++u) {
                result.hidden[(t * B + b) * H + u] += dh[u];
                dz[u] = slope(n.sizes.nonlinearity, state(t, b)[u]) * dh[u];
                result.bias_ih[u] += dz[u];
                for (std::size_t v = 0; v < H; ++v) {
                    result.weight_hh[u * H + v] += dz[u] * before(t, b)[v];
                    earlier[v] += dz[u] * n.weight_hh[u * H + v];
                }
                for (std::size_t d = 0; d < D; ++d) {
                    result.weight_ih[u * D + d] += dz[u] * input(t, b, d);
                    if (!n.tokens) result.x[(t * B + b) * D + d] += dz[u] * n.weight_ih[u * D + d];
                }
            }
            dh = earlier;
            if (past == truncation) return;
            if (t == 0) break;
        }
        for (std::size_t u = 0; u < H; ++u) result.state[b * H + u] += dh[u];
    }

    /// The output layer at step t: adds to the loss and to its own gradients, returns what goes to h_t.
    Values output(std::size_t t, std::size_t b, std::size_t row) {
        const std::size_t Q = n.outputs;
        Values o(n.output_bias), d_o(Q), dh(H);
        if (!n.bias) o.assign(Q, 0);
        for (std::size_t q = 0; q < Q; ++q)
            for (std::size_t u = 0; u < H; ++u) o[q] += n.output_weight[q * H + u] * state(t, b)[u];
        std::copy(o.begin(), o.end(), result.prediction.begin() + std::ptrdiff_t(row * Q));
        if (n.loss == Loss::cross_entropy) {
            const double largest = *std::max_element(o.begin(), o.end());
            double sum = 0;
            for (std::size_t q = 0; q < Q; ++q) sum += d_o[q] = std::exp(o[q] - largest);
            const std::size_t y = std::size_t(n.classes[row]);
            for (std::size_t q = 0; q < Q; ++q) d_o[q] = n.scale * (d_o[q] / sum - (q == y));
            result.loss[0] += n.scale * (std::log(sum) + largest - o[y]);
        } else {
            for (std::size_t q = 0; q < Q; ++q) {
                const double error = o[q] - n.y[row * Q + q];
                result.loss[0] += n.scale * error * error;
                d_o[q] = 2 * n.scale * error;
            }
        }
        for (std::size_t q = 0; q < Q; ++q) {
            result.output_bias[q] += d_o[q];
            for (std::size_t u = 0; u < H; ++u) {
                result.output_weight[q * H + u] += d_o[q] * state(t, b)[u];
                dh[u] += d_o[q] * n.output_weight[q * H + u];
            }
        }
        return dh;
    }

    const Network& n;
    const std::size_t T = n.sizes.steps, B = n.sizes.batch, D = n.sizes.inputs, H = n.sizes.hidden;
    Result result;

private:
    double input(std::size_t t, std::size_t b, std::size_t d) const {
        return n.tokens ? std::size_t(n.ids[t * B + b]) == d : n.x[(t * B + b) * D + d];
    }
    double* before(std::size_t t, std::size_t b) { return h.data() + (t * B + b) * H; }
    double* state(std::size_t t, std::size_t b) { return before(t + 1, b); }

    Values h;  // h_0 .. h_T
};

}  // namespace

Result textbook_layer(const Network& n) {
    Textbook book(n);
    for (std::size_t b = 0; b < book.B; ++b) {
        for (std::size_t t = 0; t < book.T; ++t) {
            const auto dh = n.d_output.begin() + std::ptrdiff_t((t * book.B + b) * book.H);
            book.go_back(t, b, Values(dh, dh + std::ptrdiff_t(book.H)), kNoTruncation);
        }
        const auto dh = n.d_state.begin() + std::ptrdiff_t(b * book.H);
        if (book.T != 0)
            book.go_back(book.T - 1, b, Values(dh, dh + std::ptrdiff_t(book.H)), kNoTruncation);
        else
            std::copy(dh, dh + std::ptrdiff_t(book.H), book.result.state.begin() + std::ptrdiff_t(b * book.H));
    }
    book.result.bias_hh = book.result.bias_ih;
    return book.result;
}

Result textbook_model(const Network& n, std::size_t truncation) {
    Textbook book(n);
    book.result.loss = {0};
    book.result.prediction.assign(n.target_rows() * n.outputs, 0);
    book.result.output_weight.assign(n.outputs * book.H, 0);
    book.result.output_bias.assign(n.outputs, 0);
    for (std::size_t t = n.last_only && book.T != 0 ? book.T - 1 : 0; t < book.T; ++t)
        for (std::size_t b = 0; b < book.B; ++b)
            book.go_back(t, b, book.output(t, b, n.last_only ? b : t * book.B + b), truncation);
    book.result.bias_hh = book.result.bias_ih;
    return book.result;
}

}  // namespace pybptt::test
