// What a network is, and where its parameters lie: for those who call the core in the name of another language.
#pragma once

#include <vector>

#include "pybptt/model.hpp"

namespace pybptt {

/// A recurrent layer without its output layer.
struct LayerConfig {
    std::size_t inputs, hidden, layers, directions;
    bool bias;
    CellConfig cell;
    std::size_t projection = 0;  // P; 0: none

    RnnSizes sizes(std::size_t steps, std::size_t batch, const std::int64_t* lengths) const {
        return {steps, batch, inputs, hidden, cell, layers, directions, lengths, projection};
    }
    std::size_t recurrences() const { return layers * directions; }
    /// Columns of h_t: P, or H.
    std::size_t h_width() const { return sizes(0, 0, nullptr).h_width(); }
    /// K P, of an output.
    std::size_t width() const { return directions * h_width(); }
    /// Values in h, (L K, B, P), and in c, (L K, B, H).
    std::size_t h_size(std::size_t batch) const { return recurrences() * batch * h_width(); }
    std::size_t c_size(std::size_t batch) const { return recurrences() * batch * hidden; }
    /// Columns of a recurrence's W_ih.
    std::size_t inputs_of(std::size_t recurrence) const { return recurrence < directions ? inputs : width(); }
    std::size_t parameter_count() const {
        std::size_t count = 0;
        for (std::size_t i = 0; i < recurrences(); ++i)
            count += hidden * (std::size_t(cell.gates()) * (inputs_of(i) + h_width() + (bias ? 2 : 0)) + projection +
                               std::size_t(cell.vectors()));
        return count;
    }
};

/// A recurrence's arrays in the flat vector, one after another: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, vectors; one
/// recurrence after another.
template <class Parameters, class Value>
std::vector<Parameters> recurrences_in(Value* flat, const LayerConfig& c) {
    std::vector<Parameters> all;
    const std::size_t rows = std::size_t(c.cell.gates()) * c.hidden;
    for (std::size_t i = 0; i < c.recurrences(); ++i) {
        const auto take = [&](std::size_t count) {
            Value* const array = flat;
            flat += count;
            return count == 0 ? nullptr : array;
        };
        Parameters one{};
        one.weight_ih = take(rows * c.inputs_of(i));
        one.weight_hh = take(rows * c.h_width());
        one.bias_ih = take(c.bias ? rows : 0);
        one.bias_hh = take(c.bias ? rows : 0);
        one.weight_hr = take(c.projection * c.hidden);
        one.vectors = take(std::size_t(c.cell.vectors()) * c.hidden);
        all.push_back(one);
    }
    return all;
}

/// The output layer follows the recurrent one in the flat vector: weight (Q, K P), bias (Q,) or none.
struct OutputConfig {
    std::size_t outputs;
    bool bias, last_only;

    std::size_t parameter_count(const LayerConfig& c) const { return outputs * (c.width() + (bias ? 1 : 0)); }
    std::size_t target_rows(const RnnSizes& s) const { return last_only ? s.batch : s.steps * s.batch; }
};

}  // namespace pybptt
