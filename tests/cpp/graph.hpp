// Scalars that remember what they were computed from, and the cells' equations in them. Derivatives come from the chain rule alone
// (reverse mode), so that the tests hold every equation once, forward, and share no backward one with the core.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "pybptt/cell.hpp"

namespace pybptt::test {

class Graph {
public:
    using Id = std::uint32_t;  // of a scalar; a later one never goes into an earlier one

    std::vector<double> value, slope;  // slope: the derivative of what is asked about, once `go_back` has run

    Id leaf(double v) { return make(v, {}); }
    /// `count` leaves, one after another: v[0], v[1], .. or 0 if there is no v.
    Id leaves(const double* v, std::size_t count) {
        const Id first = Id(value.size());
        for (std::size_t i = 0; i < count; ++i) leaf(v != nullptr ? v[i] : 0);
        return first;
    }
    /// A function of a and b, and its derivatives by them.
    Id function(double v, Id a, double by_a, Id b = 0, double by_b = 0) { return make(v, {a, b, 0, by_a, by_b}); }
    /// sum of value[a + i] value[b + i]
    Id dot(Id a, Id b, std::size_t count) {
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) sum += value[a + i] * value[b + i];
        return make(sum, {a, b, Id(count), 0, 0});
    }
    Id copy(Id a) { return function(value[a], a, 1); }
    Id scaled(Id a, double factor) { return function(value[a] * factor, a, factor); }
    Id add(Id a, Id b) { return function(value[a] + value[b], a, 1, b, 1); }
    Id multiply(Id a, Id b) { return function(value[a] * value[b], a, value[b], b, value[a]); }
    Id one_minus(Id a) { return function(1 - value[a], a, -1); }

    /// From now on the derivative of a copy is this.
    void let_through(Id copy, double factor) { from_[copy].by_a = factor; }
    /// go_back shows these to its `clip`.
    void row(Id first, std::size_t count) { rows_.push_back({first, count}); }

    void go_back() {
        go_back([](double*, std::size_t) {});
    }
    /// The chain rule, from the last scalar to the first; `slope` holds at first the derivatives by each scalar alone.
    /// clip(slopes of a row, their count) may change them once they are complete.
    template <class Clip>
    void go_back(Clip clip) {
        std::size_t rows = rows_.size();
        for (std::size_t i = value.size(); i-- > 0;) {
            if (rows != 0 && rows_[rows - 1].first + rows_[rows - 1].second == i + 1) {
                --rows;
                clip(slope.data() + rows_[rows].first, rows_[rows].second);
            }
            if (slope[i] == 0) continue;
            const From& from = from_[i];
            slope[from.a] += from.by_a * slope[i];
            slope[from.b] += from.by_b * slope[i];
            for (Id k = 0; k < from.count; ++k) {
                slope[from.a + k] += value[from.b + k] * slope[i];
                slope[from.b + k] += value[from.a + k] * slope[i];
            }
        }
    }

private:
    struct From {
        Id a = 0, b = 0, count = 0;
        double by_a = 0, by_b = 0;
    };
    Id make(double v, const From& from) {
        value.push_back(v);
        slope.push_back(0);
        from_.push_back(from);
        return Id(value.size() - 1);
    }
    std::vector<From> from_;
    std::vector<std::pair<Id, std::size_t>> rows_;
};

/// The elementwise part of each cell.
class Equations {
public:
    using Id = Graph::Id;
    Equations(Graph& graph, const CellConfig& config) : g(graph), c(config) {}

    struct Lstm {
        Id i, f, g, o, c, h;
    };
    /// z_f and p_f are not used if coupled, p not without peepholes.
    Lstm lstm(Id z_i, Id z_f, Id z_g, Id z_o, Id c_before, Id p_i, Id p_f, Id p_o) {
        const auto seen = [&](Id z, Id p, Id cell) { return c.peephole ? g.add(z, g.multiply(p, cell)) : z; };
        Lstm a;
        a.i = sigma(seen(z_i, p_i, c_before));
        a.f = c.coupled ? g.one_minus(a.i) : sigma(seen(z_f, p_f, c_before));
        a.g = tanh(z_g);
        a.c = g.add(g.multiply(a.f, c_before), g.multiply(a.i, a.g));
        a.o = sigma(seen(z_o, p_o, a.c));
        a.h = g.multiply(a.o, tanh(a.c));
        return a;
    }
    /// h_t = (1 - z) n + z h_{t-1}
    Id gru(Id z, Id n, Id h_before) { return g.add(g.multiply(g.one_minus(z), n), g.multiply(z, h_before)); }
    Id elman(Id z) {
        switch (c.nonlinearity) {
            case Nonlinearity::tanh: return tanh(z);
            case Nonlinearity::sigmoid: return sigma(z);
            case Nonlinearity::relu: {
                const Id x = clipped(z);
                nearest_kink = std::min(nearest_kink, std::abs(g.value[x]));
                return g.function(std::max(g.value[x], 0.0), x, g.value[x] > 0);
            }
            default: return clipped(z);
        }
    }
    Id sigma(Id z) {
        const Id x = clipped(z);
        const double s = 1 / (1 + std::exp(-g.value[x]));
        return g.function(s, x, s * (1 - s));
    }
    Id tanh(Id z) {
        const Id x = clipped(z);
        const double t = std::tanh(g.value[x]);
        return g.function(t, x, 1 - t * t);
    }

    /// How near any value came to a place where a derivative jumps: rounding may put the core's on the other side.
    double nearest_kink = std::numeric_limits<double>::infinity();

private:
    Id clipped(Id z) {
        if (c.clip == 0) return z;
        const double v = g.value[z];
        nearest_kink = std::min(nearest_kink, std::abs(std::abs(v) - c.clip));
        return g.function(std::max(-c.clip, std::min(c.clip, v)), z, std::abs(v) < c.clip);
    }

    Graph& g;
    const CellConfig c;
};

}  // namespace pybptt::test
