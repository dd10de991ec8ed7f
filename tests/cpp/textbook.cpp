#include "graph.hpp"
#include "network.hpp"

namespace pybptt::test {
namespace {

class Textbook {
public:
    using Id = Graph::Id;

    Textbook(const Network& network, const Limits& limits) : n(network), l(limits), eq(g, network.sizes.cell) {
        for (const RecurrenceValues& u : n.recurrences)
            parameters.push_back({leaves(u.weight_ih), leaves(u.weight_hh), leaves(u.bias_ih, n.bias), leaves(u.bias_hh, n.bias),
                                  leaves(u.peephole), leaves(u.weight_hr)});
        x = leaves(n.x);
        h_0 = leaves(n.h, n.initial_state);
        c_0 = leaves(n.c, n.initial_state);
        hidden.resize(recurrences() * T * B);
        cells.resize(recurrences() * T * B);
        final_h.resize(recurrences() * B);
        final_c.resize(recurrences() * B);
        copies.resize(T * B);
        std::vector<Id> rows(T * B);
        for (std::size_t i = 0; i < T * B; ++i) rows[i] = x + Id(i * D);
        for (std::size_t layer = 0; layer < n.sizes.layers; ++layer) {
            for (std::size_t recurrence = layer * K; recurrence < (layer + 1) * K; ++recurrence)
                for (std::size_t b = 0; b < B; ++b) run(recurrence, b, rows);
            const bool masked = n.masked && layer + 1 < n.sizes.layers;
            for_each_step([&](std::size_t at) {
                rows[at] = side_by_side(
                    layer, [&](std::size_t recurrence) { return hidden[recurrence * T * B + at]; },
                    masked ? n.mask.data() + (layer * T * B + at) * K * P : nullptr);
            });
        }
        output = rows;
    }

    /// Derivatives of the loss by the layers' results, from given ones.
    void take_given() {
        const auto take = [&](const Values& given, std::size_t at, std::size_t t, Id first, std::size_t count) {
            for (std::size_t j = 0; j < count && !given.empty(); ++j) enter(first + Id(j), given[at * count + j], t);
        };
        for_each_step([&](std::size_t at) {
            const std::size_t t = at / B + 1;
            if (!l.reach(t, n.length(at % B))) return;
            take(n.d_output, at, t, output[at], K * P);
            for (std::size_t recurrence = 0; recurrence < recurrences(); ++recurrence)
                take(n.d_cells, recurrence * T * B + at, t, cells[recurrence * T * B + at], n.d_cells.empty() ? 0 : H);
        });
        for (std::size_t i = 0; i < recurrences() * B; ++i) {
            take(n.d_h, i, n.length(i % B), final_h[i], P);
            take(n.d_c, i, n.length(i % B), final_c[i], n.d_c.empty() ? 0 : H);
        }
    }

    /// The output layer on every step, or on the final states.
    void take_losses() {
        result.loss = {0};
        result.prediction.assign(n.target_rows() * Q, 0);
        weight = leaves(n.output_weight);
        bias = leaves(n.output_bias, n.bias);
        if (!n.last_only) return for_each_step([&](std::size_t at) { take_loss(at, output[at]); });
        for (std::size_t b = 0; b < B; ++b)
            take_loss(
                b, side_by_side(n.sizes.layers - 1, [&](std::size_t recurrence) { return final_h[recurrence * B + b]; }, nullptr));
    }

    /// All derivatives, window by window.
    Result finish() {
        Values sum(g.value.size());
        const std::size_t windows = l.k2 == 0 ? 1 : std::max<std::size_t>(1, l.window_of(T));
        for (std::size_t w = 1; w <= windows; ++w) {
            std::fill(g.slope.begin(), g.slope.end(), 0.0);
            for (const Entry& entry : entries)
                if (entry.window == w) g.slope[entry.id] += entry.slope;
            for_each_step([&](std::size_t at) {
                // A window keeps to k2 steps; h_0 belongs to the first one.
                const bool cut = l.k2 != 0 && at >= B && at / B + l.k2 == l.end_of(w, n.length(at % B));
                for (const Copy& copy : copies[at])
                    for (std::size_t u = 0; u < copy.count; ++u)
                        g.let_through(copy.first + Id(u), cut ? 0 : l.factors.empty() ? 1 : l.factors[at]);
            });
            g.go_back([&](double* row, std::size_t count) { clip(row, count); });
            for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += g.slope[i];
        }
        const auto slopes = [&](Id first, std::size_t count) {
            return Values(sum.begin() + std::ptrdiff_t(first), sum.begin() + std::ptrdiff_t(first + count));
        };
        result.output.assign(T * B * K * P, 0);
        result.hidden.assign(recurrences() * T * B * P, 0);
        result.cells.assign(n.c.empty() ? 0 : recurrences() * T * B * H, 0);
        for_each_step([&](std::size_t at) {
            std::copy_n(g.value.data() + output[at], K * P, result.output.begin() + std::ptrdiff_t(at * K * P));
            for (std::size_t i = at; i < recurrences() * T * B; i += T * B) {
                std::copy_n(sum.data() + hidden[i], P, result.hidden.begin() + std::ptrdiff_t(i * P));
                if (!n.c.empty()) std::copy_n(g.value.data() + cells[i], H, result.cells.begin() + std::ptrdiff_t(i * H));
            }
        });
        for (std::size_t i = 0; i < recurrences() * B; ++i) {
            for (std::size_t u = 0; u < P; ++u) result.final_h.push_back(g.value[final_h[i] + u]);
            for (std::size_t u = 0; !n.c.empty() && u < H; ++u) result.final_c.push_back(g.value[final_c[i] + u]);
        }
        for (std::size_t i = 0; i < recurrences(); ++i) {
            const RecurrenceValues& of = n.recurrences[i];
            const Recurrence& at = parameters[i];
            result.recurrences.push_back({slopes(at.weight_ih, of.weight_ih.size()), slopes(at.weight_hh, of.weight_hh.size()),
                                          slopes(at.bias_ih, of.bias_ih.size()), slopes(at.bias_hh, of.bias_hh.size()),
                                          slopes(at.peephole, of.peephole.size()), slopes(at.weight_hr, of.weight_hr.size())});
        }
        result.x = slopes(x, n.x.size());
        result.h = slopes(h_0, n.h.size());
        result.c = slopes(c_0, n.c.size());
        if (!result.loss.empty()) {
            result.output_weight = slopes(weight, n.output_weight.size());
            result.output_bias = slopes(bias, n.output_bias.size());
        }
        result.nearest_kink = eq.nearest_kink;
        return result;
    }

private:
    struct Recurrence {
        Id weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr;
    };
    /// What a step reads of a state before it.
    struct Copy {
        Id first;
        std::size_t count;
    };

    /// A derivative of the loss by one scalar alone, in the window of step t.
    struct Entry {
        Id id;
        double slope;
        std::size_t window;
    };
    void enter(Id id, double slope, std::size_t t) { entries.push_back({id, slope, l.window_of(t)}); }
    void clip(double* row, std::size_t count) const {
        double squares = 0;
        for (std::size_t i = 0; i < count; ++i) squares += row[i] * row[i];
        const double norm = std::sqrt(squares);
        for (std::size_t i = 0; i < count; ++i) {
            if (l.clip == HiddenClip::norm && norm > l.clip_limit) row[i] *= l.clip_limit / norm;
            if (l.clip == HiddenClip::value) row[i] = std::max(-l.clip_limit, std::min(l.clip_limit, row[i]));
        }
    }

    Id leaves(const Values& values, bool given = true) { return g.leaves(given ? values.data() : nullptr, values.size()); }
    std::size_t recurrences() const { return n.recurrences.size(); }

    /// visit(t B + b) for every step that is one.
    template <class Visit>
    void for_each_step(Visit visit) const {
        for (std::size_t t = 0; t < T; ++t)
            for (std::size_t b = 0; b < B; ++b)
                if (t < n.length(b)) visit(t * B + b);
    }

    /// h of a layer's directions in one row.
    template <class HiddenOf>
    Id side_by_side(std::size_t layer, HiddenOf hidden_of, const double* mask) {
        const Id first = Id(g.value.size());
        for (std::size_t k = 0; k < K; ++k)
            for (std::size_t u = 0; u < P; ++u) g.scaled(hidden_of(layer * K + k) + Id(u), mask != nullptr ? mask[k * P + u] : 1);
        return first;
    }
    Id in_one_row(const std::vector<Id>& scalars) {
        const Id first = Id(g.value.size());
        for (const Id scalar : scalars) g.copy(scalar);
        return first;
    }

    /// One recurrence over one sample's steps.
    void run(std::size_t recurrence, std::size_t b, const std::vector<Id>& rows) {
        const std::size_t length = n.length(b);
        Id h = h_0 + Id((recurrence * B + b) * P), c = c_0 + Id(n.c.empty() ? 0 : (recurrence * B + b) * H);
        for (std::size_t s = 0; s < length; ++s) {
            const std::size_t at = (recurrence % K == 1 ? length - 1 - s : s) * B + b;
            step(recurrence, at, rows[at], h, c);
            hidden[recurrence * T * B + at] = h;
            cells[recurrence * T * B + at] = c;
        }
        final_h[recurrence * B + b] = h;
        final_c[recurrence * B + b] = c;
    }

    Id through(std::size_t at, Id state, std::size_t count) {
        copies[at].push_back({Id(g.value.size()), count});
        for (std::size_t u = 0; u < count; ++u) g.copy(state + Id(u));
        return copies[at].back().first;
    }

    /// h and c become those after the step.
    void step(std::size_t recurrence, std::size_t at, Id x_t, Id& h, Id& c) {
        const Recurrence& p = parameters[recurrence];
        h = through(at, h, P);
        if (!n.c.empty()) c = through(at, c, H);
        const std::size_t inputs = n.inputs(recurrence);
        const auto from_input = [&](std::size_t gate, std::size_t u) {
            const Id row = Id(gate * H + u), weights = p.weight_ih + row * Id(inputs);
            const bool selects = n.tokens && recurrence < K;
            return g.add(p.bias_ih + row, selects ? weights + Id(n.ids[at]) : g.dot(weights, x_t, inputs));
        };
        const auto from_hidden = [&](std::size_t gate, std::size_t u, Id state) {
            const Id row = Id(gate * H + u);
            return g.add(p.bias_hh + row, g.dot(p.weight_hh + row * Id(P), state, P));
        };
        const auto z = [&](std::size_t gate, std::size_t u) { return g.add(from_input(gate, u), from_hidden(gate, u, h)); };
        const CellConfig& cell = n.sizes.cell;
        std::vector<Id> h_after, c_after;
        if (cell.kind == CellKind::elman) {
            for (std::size_t u = 0; u < H; ++u) h_after.push_back(eq.elman(z(0, u)));
        } else if (cell.kind == CellKind::lstm) {
            const std::size_t later = cell.coupled ? 1 : 2;  // gates i g o, or i f g o
            for (std::size_t u = 0; u < H; ++u) {
                const auto weight = [&](std::size_t row) { return p.peephole + Id(row * H + u); };
                const Equations::Lstm a = eq.lstm(z(0, u), cell.coupled ? 0 : z(1, u), z(later, u), z(later + 1, u), c + Id(u),
                                                  weight(0), weight(1), weight(cell.coupled ? 1 : 2));
                h_after.push_back(a.h);
                c_after.push_back(a.c);
            }
        } else {
            std::vector<Id> r;
            for (std::size_t u = 0; u < H; ++u) r.push_back(eq.sigma(z(0, u)));
            std::vector<Id> r_h;
            for (std::size_t u = 0; u < H; ++u) r_h.push_back(g.multiply(r[u], h + Id(u)));
            const Id q = in_one_row(r_h);
            for (std::size_t u = 0; u < H; ++u) {
                const Id m = cell.reset_after ? g.multiply(r[u], from_hidden(2, u, h)) : from_hidden(2, u, q);
                const Id new_h = eq.tanh(g.add(from_input(2, u), m));
                h_after.push_back(eq.gru(eq.sigma(z(1, u)), new_h, h + Id(u)));
            }
        }
        h = in_one_row(h_after);
        if (n.sizes.projection != 0) {  // h_t = W_hr (o_t tanh(c_t))
            std::vector<Id> projected;
            for (std::size_t i = 0; i < P; ++i) projected.push_back(g.dot(p.weight_hr + Id(i * H), h, H));
            h = in_one_row(projected);
        }
        g.row(h, P);
        if (!c_after.empty()) c = in_one_row(c_after);
    }

    /// o = W_ho h + b_o of one row, its loss, and the derivative of that by o.
    void take_loss(std::size_t row, Id h) {
        const std::size_t length = n.length(row % B), t = n.last_only ? length : row / B + 1;
        std::vector<Id> o;
        for (std::size_t q = 0; q < Q; ++q) o.push_back(g.add(g.dot(weight + Id(q * K * P), h, K * P), bias + Id(q)));
        Values values;
        for (const Id id : o) values.push_back(g.value[id]);
        std::copy(values.begin(), values.end(), result.prediction.begin() + std::ptrdiff_t(row * Q));
        if (!l.reach(t, length) || (!l.counted.empty() && l.counted[row] == 0)) return;
        if (n.loss == Loss::cross_entropy) {
            const std::size_t y = std::size_t(n.classes[row]);
            const double largest = *std::max_element(values.begin(), values.end());
            double sum = 0;
            for (const double value : values) sum += std::exp(value - largest);
            for (std::size_t q = 0; q < Q; ++q) enter(o[q], n.scale * (std::exp(values[q] - largest) / sum - (q == y)), t);
            result.loss[0] += n.scale * (std::log(sum) + largest - values[y]);
        } else {
            for (std::size_t q = 0; q < Q; ++q) {
                const double error = values[q] - n.y[row * Q + q];
                result.loss[0] += n.scale * error * error;
                enter(o[q], 2 * n.scale * error, t);
            }
        }
    }

    const Network& n;
    const Limits& l;
    const std::size_t T = n.sizes.steps, B = n.sizes.batch, D = n.sizes.inputs, H = n.sizes.hidden, K = n.sizes.directions;
    const std::size_t P = n.sizes.h_width();
    const std::size_t Q = n.outputs;
    Graph g;
    Equations eq;
    std::vector<Recurrence> parameters;
    Id x, h_0, c_0, weight = 0, bias = 0;
    std::vector<Id> hidden, cells;          // (L K, T, B): h_t and c_t
    std::vector<Id> final_h, final_c;       // (L K, B)
    std::vector<Id> output;                 // (T, B)
    std::vector<std::vector<Copy>> copies;  // (T, B)
    std::vector<Entry> entries;
    Result result;
};

}  // namespace

Result textbook_layer(const Network& n, const Limits& limits) {
    Textbook book(n, limits);
    book.take_given();
    return book.finish();
}

Result textbook_model(const Network& n, const Limits& limits) {
    Textbook book(n, limits);
    book.take_losses();
    return book.finish();
}

}  // namespace pybptt::test
