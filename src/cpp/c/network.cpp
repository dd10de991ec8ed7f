#include "c/network.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "callers/ids.hpp"

namespace pybptt::c {
namespace {

constexpr std::size_t kMostLayers = 1 << 16;

std::size_t at_least_one(const char* name, std::size_t given) {
    if (given == 0) refuse(std::string(name) + ": expected at least 1, got 0");
    return given;
}

pybptt_network read_config(const pybptt_config* given) {
    const pybptt_config c = read_struct("config", given);
    CellConfig cell;
    cell.kind = CellKind(read_choice("config.cell", c.cell, kCellKinds));
    cell.nonlinearity = Nonlinearity(read_choice("config.nonlinearity", c.nonlinearity, kNonlinearities));
    cell.peephole = read_flag("config.peephole", c.peephole);
    cell.coupled = read_flag("config.coupled", c.coupled);
    cell.reset_after = !read_flag("config.reset_before", c.reset_before);
    cell.clip = c.clip;
    if (!(c.clip >= 0 && std::isfinite(c.clip))) refuse("config.clip: expected a positive number, or 0 for none");
    if (cell.kind != CellKind::elman && c.nonlinearity != 0)
        refuse("config.nonlinearity: expected 0, because the cell is no PYBPTT_ELMAN");
    if (cell.kind != CellKind::lstm && (cell.peephole || cell.coupled))
        refuse("config.peephole, config.coupled: expected 0, because the cell is no PYBPTT_LSTM");
    if (cell.kind != CellKind::gru && !cell.reset_after)
        refuse("config.reset_before: expected 0, because the cell is no PYBPTT_GRU");
    const bool last_only = read_flag("config.last_only", c.last_only);
    if (last_only && c.output_size == 0) refuse("config.last_only: expected 0 without an output layer, got 1");

    LayerConfig layer{at_least_one("config.input_size", c.input_size),
                      at_least_one("config.hidden_size", c.hidden_size),
                      at_least_one("config.num_layers", c.num_layers),
                      read_flag("config.bidirectional", c.bidirectional) ? std::size_t{2} : std::size_t{1},
                      !read_flag("config.no_bias", c.no_bias),
                      cell,
                      c.proj_size};
    if (layer.layers > kMostLayers)
        refuse("config.num_layers: expected at most " + std::to_string(kMostLayers) + ", got " + std::to_string(layer.layers));
    if (c.proj_size != 0 && !cell.projectable())
        refuse("config.proj_size: expected 0 for this cell, got " + std::to_string(c.proj_size));
    if (c.proj_size >= layer.hidden)
        refuse("config.proj_size: expected less than hidden_size = " + std::to_string(layer.hidden) + ", got " +
               std::to_string(c.proj_size));
    // No size that is made of these is too large for a size_t.
    const std::size_t sizes = checked_product(layer.recurrences() * 16, layer.hidden);
    checked_product(checked_product(sizes, layer.inputs), sizeof(double));
    checked_product(checked_product(sizes, layer.hidden), sizeof(double));
    checked_product(checked_product(sizes, c.output_size), sizeof(double));
    return {read_choice("config.dtype", c.dtype, 2) == PYBPTT_FLOAT64, layer, {c.output_size, true, last_only}};
}

/// The index of a name's layer and direction as PyTorch writes them: l0, l0_reverse, l1, ..
std::string suffix(const LayerConfig& c, std::size_t recurrence) {
    return "_l" + std::to_string(recurrence / c.directions) + (recurrence % c.directions == 1 ? "_reverse" : "");
}

struct NamedArray {
    std::string name;
    std::size_t offset, rows, columns;
};

/// In the order of recurrences_in.
std::vector<NamedArray> parameter_arrays(const pybptt_network& network) {
    const LayerConfig& c = network.layer;
    std::vector<NamedArray> all;
    std::size_t offset = 0;
    const auto add = [&](std::string name, std::size_t rows, std::size_t columns) {
        if (rows * columns == 0) return;
        all.push_back({std::move(name), offset, rows, columns});
        offset += rows * columns;
    };
    const std::size_t rows = std::size_t(c.cell.gates()) * c.hidden;
    for (std::size_t i = 0; i < c.recurrences(); ++i) {
        const std::string of = suffix(c, i);
        add("weight_ih" + of, rows, c.inputs_of(i));
        add("weight_hh" + of, rows, c.h_width());
        add("bias_ih" + of, rows, c.bias ? 1 : 0);
        add("bias_hh" + of, rows, c.bias ? 1 : 0);
        add("weight_hr" + of, c.projection, c.hidden);
        add("weight_peephole" + of, std::size_t(c.cell.vectors()), c.hidden);
    }
    add("output.weight", network.output.outputs, c.width());
    add("output.bias", network.output.outputs, 1);
    return all;
}

void expect_count(const char* name, const pybptt_network& network, std::size_t given) {
    if (given != network.parameter_count())
        refuse(std::string(name) + ": expected " + std::to_string(network.parameter_count()) + ", got " + std::to_string(given));
}

}  // namespace

bool same(const pybptt_network& one, const pybptt_network& other) {
    const LayerConfig &a = one.layer, &b = other.layer;
    return one.float64 == other.float64 && one.output.outputs == other.output.outputs && a.inputs == b.inputs &&
           a.hidden == b.hidden && a.layers == b.layers && a.directions == b.directions && a.bias == b.bias &&
           a.projection == b.projection && a.cell.kind == b.cell.kind && a.cell.nonlinearity == b.cell.nonlinearity &&
           a.cell.peephole == b.cell.peephole && a.cell.coupled == b.cell.coupled && a.cell.reset_after == b.cell.reset_after &&
           !(a.cell.clip < b.cell.clip || b.cell.clip < a.cell.clip);
}

void expect_output(const pybptt_network* network, bool output) {
    expect_given("network", network);
    if (network->has_output() != output)
        refuse(output
                   ? "network: expected one with an output layer, got output_size = 0"
                   : "network: expected one without an output layer, got output_size = " + std::to_string(network->output.outputs));
}

template <class Real>
Call<Real>::Call(const pybptt_network& network, const pybptt_input* given, bool packable) : network(network) {
    const pybptt_input in = read_struct("input", given);
    const LayerConfig& c = network.layer;
    sizes = c.sizes(in.steps, in.batch, nullptr);
    if (network.output.last_only && in.steps == 0)
        refuse("input.steps: expected at least 1, because last_only counts the last one, got 0");
    // Every other size of a call is at most this.
    const std::size_t most_rows = checked_product(std::max<std::size_t>(1, in.steps), std::max<std::size_t>(1, in.batch));
    checked_product(most_rows, checked_product(network.parameter_count() + c.recurrences(), sizeof(double)));

    if (in.packed != nullptr) {
        if (!packable) refuse("input.packed: expected null, because this call reads the parameters themselves");
        if (in.parameters != nullptr) refuse("input.parameters: expected null beside input.packed");
        if (!same(in.packed->network, network)) refuse("input.packed: expected weights of this network");
        if (in.packed->tokens != (in.tokens != nullptr))
            refuse(in.packed->tokens ? "input.tokens: expected token ids, which the weights are packed for, got null"
                                     : "input.dense: expected dense input, which the weights are packed for, got token ids");
        packed = &std::get<Packed<Real>>(in.packed->weights);
    } else {
        expect_given("input.parameters", in.parameters);
        expect_count("input.parameter_count", network, in.parameter_count);
        values = arrays.read<Real>("input.parameters", in.parameters, in.parameter_count, Presence::required);
        recurrences = recurrences_in<RnnParameters<Real>>(values, c);
    }

    lengths = arrays.copy("input.lengths", in.lengths, in.batch, Presence::optional);
    if (in.lengths != nullptr) {
        check_lengths(lengths.data(), in.steps, in.batch);
        sizes.lengths = lengths.data();
    }
    if (in.tokens != nullptr) {
        if (in.dense != nullptr) refuse("input.dense: expected null beside input.tokens");
        tokens = arrays.copy("input.tokens", in.tokens, rows(), Presence::required);
        check_ids("input.tokens", tokens.data(), in.steps, in.batch, c.inputs, sizes.lengths);
        input.tokens = tokens.data();
    } else {
        input.dense = arrays.read<Real>("input.dense", in.dense, checked_product(rows(), c.inputs), Presence::required);
    }
    input.mask =
        arrays.read<Real>("input.dropout_mask", in.dropout_mask, (c.layers - 1) * output_size(), optional_if(c.layers > 1));
    state = {arrays.read<Real>("input.h_0", in.h_0, c.h_size(in.batch), Presence::optional),
             arrays.read<Real>("input.c_0", in.c_0, c.c_size(in.batch), optional_if(has_cells()))};
}

template <class Real>
OutputLayer<Real> Call<Real>::output_layer() const {
    const OutputConfig& o = network.output;
    if (values == nullptr) return {o.outputs, nullptr, nullptr, o.last_only};
    const Real* const weight = values + layer().parameter_count();
    return {o.outputs, weight, weight + o.outputs * layer().width(), o.last_only};
}

template <class Real>
RnnState<Real> Call<Real>::final_state(const pybptt_output& given) {
    return {arrays.write<Real>("output.h_n", given.h_n, layer().h_size(sizes.batch), Presence::optional),
            arrays.write<Real>("output.c_n", given.c_n, layer().c_size(sizes.batch), optional_if(has_cells()))};
}

template <class Real>
Gradients<Real>::Gradients(const pybptt_network& network, std::size_t steps, std::size_t batch, bool dense,
                           const pybptt_gradients* given, Arrays& arrays) {
    const pybptt_gradients g = read_struct("gradients", given);
    const LayerConfig& c = network.layer;
    expect_given("gradients.parameters", g.parameters);
    expect_count("gradients.parameter_count", network, g.parameter_count);
    Real* const flat = arrays.write<Real>("gradients.parameters", g.parameters, g.parameter_count, Presence::required);
    recurrences = recurrences_in<RnnParameterGradients<Real>>(flat, c);
    const std::size_t rows = steps * batch;
    to = {recurrences.data(),
          arrays.write<Real>("gradients.input", g.input, rows * c.inputs, optional_if(dense)),
          {arrays.write<Real>("gradients.h_0", g.h_0, c.h_size(batch), Presence::optional),
           arrays.write<Real>("gradients.c_0", g.c_0, c.c_size(batch), optional_if(c.cell.has_cell_state()))},
          arrays.write<Real>("gradients.hidden", g.hidden, steps * c.h_size(batch), Presence::optional)};
    if (!network.has_output()) return;
    output.weight = flat + c.parameter_count();
    output.bias = output.weight + network.output.outputs * c.width();
}

template <class Real>
Truncation<Real> read_truncation(const pybptt_network& network, std::size_t steps, std::size_t batch, const std::int64_t* lengths,
                                 const pybptt_truncation* given, Arrays& arrays) {
    const pybptt_truncation t = read_optional("truncation", given);
    Truncation<Real> made;
    made.limits.clip = HiddenClip(read_choice("truncation.clip_hidden", t.clip_hidden, 3));
    if (made.limits.clip != HiddenClip::none) {
        if (!(t.clip_limit > 0)) refuse("truncation.clip_limit: expected a positive number");
        made.limits.clip_limit = Real(t.clip_limit);
    }
    const bool windows = t.k1 != 0 || t.k2 != 0;
    if (windows && (t.k1 == 0 || t.k2 == 0))
        refuse("truncation.k1, truncation.k2: expected both at least 1, or both 0, got " + std::to_string(t.k1) + ", " +
               std::to_string(t.k2));
    if (windows && t.factors != nullptr) refuse("truncation.factors: expected null beside k1 and k2");
    if ((windows || t.factors != nullptr) && network.layer.directions != 1)
        refuse("truncation: expected a network of one direction, got a bidirectional one");
    made.limits.factors = arrays.read<Real>("truncation.factors", t.factors, steps * batch, Presence::optional);
    // With one loss, at the end of a sequence, there is one boundary.
    if (windows) made.add_windows(network.output.last_only ? std::max(t.k1, steps) : t.k1, t.k2, steps, batch, lengths);
    return made;
}

#define PYBPTT_INSTANTIATE(Real)                                                                                          \
    template struct Call<Real>;                                                                                           \
    template struct Gradients<Real>;                                                                                      \
    template Truncation<Real> read_truncation<Real>(const pybptt_network&, std::size_t, std::size_t, const std::int64_t*, \
                                                    const pybptt_truncation*, Arrays&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt::c

using namespace pybptt;
using namespace pybptt::c;

pybptt_status pybptt_network_create(const pybptt_config* config, pybptt_network** network) {
    return guarded([&] {
        expect_given("network", network);
        *network = new pybptt_network(read_config(config));
    });
}
void pybptt_network_destroy(pybptt_network* network) { delete network; }

size_t pybptt_network_parameter_count(const pybptt_network* network) { return network == nullptr ? 0 : network->parameter_count(); }
size_t pybptt_network_parameter_arrays(const pybptt_network* network) {
    std::size_t count = 0;
    guarded([&] { count = network == nullptr ? 0 : parameter_arrays(*network).size(); });
    return count;
}

pybptt_status pybptt_network_parameter(const pybptt_network* network, size_t index, pybptt_parameter* parameter) {
    return guarded([&] {
        expect_given("network", network);
        const std::size_t size = known_size("parameter", parameter);
        const std::vector<NamedArray> all = parameter_arrays(*network);
        if (index >= all.size())
            refuse("index: expected less than " + std::to_string(all.size()) + ", got " + std::to_string(index));
        const NamedArray& one = all[index];
        pybptt_parameter result{size, {}, one.offset, one.rows, one.columns};
        std::snprintf(result.name, sizeof result.name, "%s", one.name.c_str());
        std::memcpy(parameter, &result, size);
    });
}

pybptt_status pybptt_pack(const pybptt_network* network, const void* parameters, size_t parameter_count, int32_t tokens,
                          pybptt_packed** packed) {
    return guarded([&] {
        expect_given("network", network);
        expect_given("packed", packed);
        expect_given("parameters", parameters);
        expect_count("parameter_count", *network, parameter_count);
        const bool with_tokens = read_flag("tokens", tokens);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Arrays arrays;
            const LayerConfig& c = network->layer;
            const Real* const values = arrays.read<Real>("parameters", parameters, parameter_count, Presence::required);
            const std::vector<RnnParameters<Real>> recurrences = recurrences_in<RnnParameters<Real>>(values, c);
            const RnnSizes sizes = c.sizes(0, 0, nullptr);
            const OutputConfig& o = network->output;
            const Real* const weight = values + c.parameter_count();
            const OutputLayer<Real> layer{o.outputs, weight, weight + o.outputs * c.width(), o.last_only};
            Packed<Real> weights = network->has_output() ? pack_model<Real>(sizes, recurrences.data(), with_tokens, layer)
                                                         : Packed<Real>(sizes, recurrences.data(), with_tokens);
            *packed = new pybptt_packed{*network, with_tokens, std::move(weights)};
        });
    });
}
void pybptt_packed_destroy(pybptt_packed* packed) { delete packed; }
