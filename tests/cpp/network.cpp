#include "network.hpp"

#include <initializer_list>
#include <numeric>
#include <stdexcept>

#include "allocations.hpp"
#include "runtime/memory.hpp"

namespace pybptt::test {

Network& Network::fill(std::uint64_t seed) {
    Random random(seed);
    const auto [T, B, D, H, cell, L, K, ignored, projection, none_packed] = sizes;
    const std::size_t Q = outputs, G = std::size_t(cell.gates()), P = sizes.h_width();
    const auto values = [&](std::size_t count, double size) {
        Values v(count);
        std::generate(v.begin(), v.end(), random.reals(size));
        return v;
    };
    const auto integers_below = [&](std::size_t count, std::size_t limit) {
        std::vector<std::int64_t> v(count);
        for (std::int64_t& id : v) id = std::int64_t(random.below(limit));
        return v;
    };
    const auto fan_in = [](std::size_t n) { return n == 0 ? 1 : 1 / std::sqrt(double(n)); };
    recurrences.clear();
    for (std::size_t i = 0; i < sizes.recurrences(); ++i) {
        RecurrenceValues u;
        u.weight_ih = values(G * H * inputs(i), fan_in(inputs(i)));
        u.weight_hh = values(G * H * P, fan_in(P));
        u.bias_ih = values(G * H, 0.5);
        u.bias_hh = values(G * H, 0.5);
        u.peephole = values(std::size_t(cell.vectors()) * H, 0.7);
        u.weight_hr = values(projection * H, fan_in(H));
        recurrences.push_back(std::move(u));
    }
    if (tokens)
        ids = integers_below(T * B, D);
    else
        x = values(T * B * D, 1);
    h = values(L * K * B * P, 1);
    d_h = values(L * K * B * P, 1);
    if (d_every_step) d_output = values(T * B * K * P, 1);
    if (cell.has_cell_state()) {
        c = values(L * K * B * H, 1);
        d_c = values(L * K * B * H, 1);
        if (d_every_step) d_cells = values(L * K * T * B * H, 1);
    }
    output_weight = values(Q * K * P, fan_in(K * P));
    output_bias = values(Q, 0.5);
    if (loss == Loss::cross_entropy)
        classes = integers_below(target_rows(), Q);
    else
        y = values(target_rows() * Q, 1);
    if (masked) {  // dropped, doubled, and as it is
        mask.clear();
        for (const std::int64_t factor : integers_below((L - 1) * T * B * K * P, 3)) mask.push_back(double(factor));
    }
    if (ragged) {
        lengths = integers_below(B, T + 1);
        if (B > 1) lengths[B - 1] = std::int64_t(T);
        if (B > 2) lengths[0] = 0;
    }
    return *this;
}

std::size_t Network::time_rows() const { return packed ? std::accumulate(lengths.begin(), lengths.end(), std::size_t{0}) : rows(); }

std::string Network::describe() const {
    const CellConfig& cell = sizes.cell;
    std::string text = cell.kind == CellKind::lstm ? "LSTM" : cell.kind == CellKind::gru ? "GRU" : "Elman";
    for (const auto& [name, number] : {std::pair{" T ", sizes.steps},
                                       {" B ", sizes.batch},
                                       {" D ", sizes.inputs},
                                       {" H ", sizes.hidden},
                                       {" P ", sizes.h_width()},
                                       {" Q ", outputs},
                                       {" layers ", sizes.layers},
                                       {" directions ", sizes.directions},
                                       {" phi ", std::size_t(cell.nonlinearity)}})
        text += name + std::to_string(number);
    for (const auto& [is, name] : {std::pair{cell.peephole, " peephole"},
                                   {cell.coupled, " coupled"},
                                   {!cell.reset_after, " reset before"},
                                   {cell.clip != 0, " clipped"},
                                   {tokens, " tokens"},
                                   {!bias, " no bias"},
                                   {!initial_state, " no state"},
                                   {ragged, " ragged"},
                                   {packed, " packed"},
                                   {masked, " masked"},
                                   {!d_every_step, " final states alone"},
                                   {last_only, " last only"},
                                   {loss == Loss::squared_error, " squared error"}})
        if (is) text += name;
    return text;
}

std::string Limits::describe() const {
    std::string text;
    if (!factors.empty()) text += "factors ";
    if (k2 != 0) text += "windows " + std::to_string(k1) + " " + std::to_string(k2) + " ";
    if (clip != HiddenClip::none) text += (clip == HiddenClip::norm ? "norm " : "value ") + std::to_string(clip_limit);
    return counted.empty() ? text : text + " some count";
}

Network projected(Network n, std::size_t projection) {
    n.sizes.projection = projection;
    return n.fill(71 + projection);
}

CellConfig elman(Nonlinearity nonlinearity, double clip) {
    CellConfig cell;
    cell.nonlinearity = nonlinearity;
    cell.clip = clip;
    return cell;
}
CellConfig lstm(bool peephole, bool coupled, double clip) {
    CellConfig cell;
    cell.kind = CellKind::lstm;
    cell.peephole = peephole;
    cell.coupled = coupled;
    cell.clip = clip;
    return cell;
}
CellConfig gru(bool reset_after, double clip) {
    CellConfig cell;
    cell.kind = CellKind::gru;
    cell.reset_after = reset_after;
    cell.clip = clip;
    return cell;
}
const std::vector<CellConfig> kElman = {elman(Nonlinearity::tanh), elman(Nonlinearity::relu), elman(Nonlinearity::sigmoid),
                                        elman(Nonlinearity::identity)};
const std::vector<CellConfig> kCells = {elman(Nonlinearity::tanh), lstm(false, false), gru(true),       gru(false),
                                        lstm(true, false),         lstm(false, true),  lstm(true, true)};
const std::vector<CellConfig> kClipped = {elman(Nonlinearity::tanh, kClip),
                                          elman(Nonlinearity::relu, kClip),
                                          elman(Nonlinearity::sigmoid, kClip),
                                          elman(Nonlinearity::identity, kClip),
                                          lstm(false, false, kClip),
                                          lstm(true, true, kClip),
                                          gru(true, kClip),
                                          gru(false, kClip)};

Network network(const Shape& s, const CellConfig& cell, std::size_t variant, std::size_t layers, std::size_t directions) {
    Network n;
    n.sizes = {s.T, s.B, s.D, s.H, cell, layers, directions};
    n.outputs = s.Q;
    n.tokens = (variant & 1) != 0 && s.D != 0;
    n.bias = (variant & 2) == 0;
    n.initial_state = (variant & 4) == 0;
    n.last_only = (variant & 8) != 0;
    n.loss = (variant & 16) != 0 ? Loss::squared_error : Loss::cross_entropy;
    n.ragged = (variant & 32) != 0;
    n.masked = (variant & 64) != 0 && layers > 1;
    n.d_every_step = (variant & 128) == 0;
    return n.fill(variant + 100 * s.H + s.T);
}
Network clear_of_kinks(Network n) {
    for (std::uint64_t seed = 1; textbook_layer(n).nearest_kink < 1e-5; ++seed) {
        REQUIRE(seed < 200);
        n.fill(seed);
    }
    return n;
}

namespace {

std::string difference(const std::string& name, const Values& expected, const Values& got, double tolerance) {
    if (expected.empty() || got.empty()) return "";
    if (expected.size() != got.size()) return name + ": sizes differ; ";
    double largest = 1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const bool close = std::abs(expected[i] - got[i]) <= tolerance * largest;
        if (tolerance == 0 ? std::memcmp(&expected[i], &got[i], sizeof(double)) == 0 : close) continue;
        return name + "[" + std::to_string(i) + "]: expected " + std::to_string(expected[i]) + ", got " + std::to_string(got[i]) +
               "; largest " + std::to_string(largest) + "; ";
    }
    return "";
}

}  // namespace

std::string difference(const Result& expected, const Result& got, double tolerance) {
    std::string all;
    const auto compare = [&](const std::string& name, const Values& a, const Values& b) {
        all += difference(name, a, b, tolerance);
    };
    for (const auto& [name, values] :
         std::initializer_list<std::pair<const char*, Values Result::*>>{{"loss", &Result::loss},
                                                                         {"output", &Result::output},
                                                                         {"final h", &Result::final_h},
                                                                         {"final c", &Result::final_c},
                                                                         {"cells", &Result::cells},
                                                                         {"prediction", &Result::prediction},
                                                                         {"d x", &Result::x},
                                                                         {"d h_0", &Result::h},
                                                                         {"d c_0", &Result::c},
                                                                         {"d hidden", &Result::hidden},
                                                                         {"d output_weight", &Result::output_weight},
                                                                         {"d output_bias", &Result::output_bias}})
        compare(name, expected.*values, got.*values);
    for (std::size_t i = 0; i < std::min(expected.recurrences.size(), got.recurrences.size()); ++i)
        for (const auto& [name, values] : std::initializer_list<std::pair<const char*, Values RecurrenceValues::*>>{
                 {"d weight_ih", &RecurrenceValues::weight_ih},
                 {"d weight_hh", &RecurrenceValues::weight_hh},
                 {"d bias_ih", &RecurrenceValues::bias_ih},
                 {"d bias_hh", &RecurrenceValues::bias_hh},
                 {"d peephole", &RecurrenceValues::peephole},
                 {"d weight_hr", &RecurrenceValues::weight_hr}})
            compare(name + (" of recurrence " + std::to_string(i)), expected.recurrences[i].*values, got.recurrences[i].*values);
    return all;
}

namespace {

template <class Real>
struct RecurrenceFences {
    explicit RecurrenceFences(const RecurrenceValues& u)
        : weight_ih(u.weight_ih),
          weight_hh(u.weight_hh),
          bias_ih(u.bias_ih),
          bias_hh(u.bias_hh),
          peephole(u.peephole),
          weight_hr(u.weight_hr) {}
    RecurrenceFences(const RnnSizes& s, std::size_t inputs)
        : weight_ih(std::size_t(s.cell.gates()) * s.hidden * inputs),
          weight_hh(std::size_t(s.cell.gates()) * s.hidden * s.h_width()),
          bias_ih(std::size_t(s.cell.gates()) * s.hidden),
          bias_hh(std::size_t(s.cell.gates()) * s.hidden),
          peephole(std::size_t(s.cell.vectors()) * s.hidden),
          weight_hr(s.projection * s.hidden) {}

    Fenced<Real> weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr;
};

/// The network's arrays in the core's type. Past a sequence's end they hold NaN, and numbers that are no token or class.
template <class Real>
struct Arrays {
    explicit Arrays(const Network& network, const Limits& limits = {})
        : n(network),
          l(limits),
          x(n.x),
          mask(n.mask),
          h(n.h),
          c(n.c),
          d_output(n.d_output),
          d_h(n.d_h),
          d_c(n.d_c),
          d_cells(n.d_cells),
          output_weight(n.output_weight),
          output_bias(n.output_bias),
          y(n.y),
          factors(l.factors),
          ids(n.ids.size()),
          classes(n.classes.size()),
          lengths(n.lengths.size()),
          counted(n.target_rows()) {
        std::copy(n.ids.begin(), n.ids.end(), ids.begin());
        std::copy(n.classes.begin(), n.classes.end(), classes.begin());
        std::copy(n.lengths.begin(), n.lengths.end(), lengths.begin());
        for (const RecurrenceValues& recurrence : n.recurrences) {
            recurrences.emplace_back(recurrence);
            const RecurrenceFences<Real>& u = recurrences.back();
            parameters.push_back({u.weight_ih.data(), u.weight_hh.data(), n.bias ? u.bias_ih.data() : nullptr,
                                  n.bias ? u.bias_hh.data() : nullptr, n.sizes.cell.peephole ? u.peephole.data() : nullptr,
                                  n.sizes.projection != 0 ? u.weight_hr.data() : nullptr});
        }
        spoil_paddings(x, n.sizes.inputs);
        spoil_paddings(ids, 1);
        spoil_paddings(mask, n.width());
        spoil_paddings(d_output, n.width());
        spoil_paddings(d_cells, n.sizes.hidden);
        if (!n.last_only) {
            spoil_paddings(y, n.outputs);
            spoil_paddings(classes, 1);
        }
        spoil_paddings(factors, 1);
        leave_out();
        if (n.packed) {
            drop_paddings(x, n.sizes.inputs);
            drop_paddings(ids, 1);
            drop_paddings(mask, n.width());
            drop_paddings(d_output, n.width());
            drop_paddings(d_cells, n.sizes.hidden);
            drop_paddings(factors, 1);
        }
        release_cached_memory();  // so that all memory of the call is new, and filled
    }

    /// Of a (.., T, B, columns) array.
    template <class Value>
    void spoil_paddings(const Fenced<Value>& array, std::size_t columns) const {
        for (std::size_t i = 0; n.ragged && i < array.size(); ++i)
            if (n.is_padding(i / columns)) std::memset(&array[i], kGuardByte, sizeof(Value));
    }
    template <class Value>
    void drop_paddings(Fenced<Value>& array, std::size_t columns) const {
        if (array.size() == 0) return;
        Fenced<Value> rows(array.size() / n.rows() * n.time_rows());
        for (std::size_t i = 0, at = 0; i < array.size(); ++i)
            if (!n.is_padding(i / columns)) rows[at++] = array[i];
        array = std::move(rows);
    }

    /// What no window reaches; targets that do not count hold numbers that are none, too.
    void leave_out() {
        const auto zero = [&](const Fenced<Real>& array, std::size_t columns, std::size_t at) {
            for (std::size_t i = at * columns; i < array.size(); i += n.rows() * columns)
                std::fill_n(array.begin() + i, columns, Real(0));
        };
        for (std::size_t t = 0; t < n.sizes.steps; ++t)
            for (std::size_t b = 0; b < n.sizes.batch; ++b)
                if (t < n.length(b) && !l.reach(t + 1, n.length(b))) {
                    zero(d_output, n.width(), t * n.sizes.batch + b);
                    zero(d_cells, n.sizes.hidden, t * n.sizes.batch + b);
                }
        for (std::size_t row = 0; row < n.target_rows(); ++row) {
            const std::size_t t = row / n.sizes.batch, length = n.length(row % n.sizes.batch);
            if (!n.last_only && t >= length) continue;
            counted[row] = (l.counted.empty() || l.counted[row] != 0) && (n.last_only || l.reach(t + 1, length));
            if (counted[row]) continue;
            all_count = false;
            if (classes.size() != 0) classes[row] = -1;
            for (std::size_t q = 0; y.size() != 0 && q < n.outputs; ++q) y[row * n.outputs + q] = Real(NAN);
        }
    }

    RnnSizes sizes() const {
        RnnSizes s = n.sizes;
        if (n.ragged) s.lengths = lengths.data();
        if (n.packed) s.packed_rows = n.time_rows();
        return s;
    }
    RnnInput<Real> input() const { return {n.tokens ? nullptr : x.data(), n.tokens ? ids.data() : nullptr, mask_or_null()}; }
    const Real* mask_or_null() const { return n.masked ? mask.data() : nullptr; }
    RnnState<const Real> state() const {
        if (!n.initial_state) return {};
        return {h.data(), n.sizes.cell.has_cell_state() ? c.data() : nullptr};
    }
    RnnUpstream<Real> upstream() const {
        const bool lstm = n.sizes.cell.has_cell_state();
        return {n.d_every_step ? d_output.data() : nullptr,
                {d_h.data(), lstm ? d_c.data() : nullptr},
                lstm && n.d_every_step ? d_cells.data() : nullptr};
    }
    OutputLayer<Real> layer() const {
        return {n.outputs, output_weight.data(), n.bias ? output_bias.data() : nullptr, n.last_only};
    }
    Targets<Real> targets() const {
        const bool classified = n.loss == Loss::cross_entropy;
        return {n.loss, n.scale, classified ? classes.data() : nullptr, classified ? nullptr : y.data(),
                all_count ? nullptr : counted.data()};
    }
    SweepLimits<Real> limits() const {
        return {l.factors.empty() ? nullptr : factors.data(), l.k1, l.k2, l.clip, Real(l.clip_limit)};
    }

    const Network& n;
    const Limits l;
    std::vector<RecurrenceFences<Real>> recurrences;
    std::vector<RnnParameters<Real>> parameters;
    Fenced<Real> x, mask, h, c, d_output, d_h, d_c, d_cells, output_weight, output_bias, y, factors;
    Fenced<std::int64_t> ids, classes, lengths;
    Fenced<bool> counted;
    bool all_count = true;
};

/// Where the core writes.
template <class Real>
struct Room {
    explicit Room(const Network& network, LeftOut<Real> gradient = nullptr)
        : n(network),
          left_out(gradient),
          output(n.time_rows() * n.width()),
          final_h(n.h.size()),
          final_c(n.c.size()),
          cells(n.c.empty() ? 0 : n.time_rows() * n.sizes.recurrences() * n.sizes.hidden),
          prediction(n.target_rows() * n.outputs),
          x(n.time_rows() * n.sizes.inputs),
          h(n.h.size()),
          c(n.c.size()),
          hidden(n.time_rows() * n.sizes.layers * n.width()),
          output_weight(n.output_weight.size()),
          output_bias(n.outputs) {
        for (std::size_t i = 0; i < n.recurrences.size(); ++i) recurrences.emplace_back(n.sizes, n.inputs(i));
    }

    RnnState<Real> final_state() const { return {final_h.data(), lstm() ? final_c.data() : nullptr}; }
    RnnOutput<Real> outputs() const { return {output.data(), final_state(), lstm() ? cells.data() : nullptr}; }
    /// `parameters` must live as long as what is returned.
    RnnGradients<Real> gradients(Ask ask, std::vector<RnnParameterGradients<Real>>& parameters) const {
        const bool least = ask == Ask::least;
        for (const RecurrenceFences<Real>& u : recurrences) {
            parameters.push_back({u.weight_ih.data(), u.weight_hh.data(), least ? nullptr : u.bias_ih.data(),
                                  least ? nullptr : u.bias_hh.data(), n.sizes.cell.peephole ? u.peephole.data() : nullptr,
                                  n.sizes.projection != 0 ? u.weight_hr.data() : nullptr});
            if (left_out != nullptr) parameters.back().*left_out = nullptr;
        }
        RnnGradients<Real> to{parameters.data()};
        if (!least && !n.tokens) to.input = x.data();
        if (ask != Ask::everything) return to;
        to.state = {h.data(), lstm() ? c.data() : nullptr};
        to.hidden = hidden.data();
        return to;
    }
    bool lstm() const { return n.sizes.cell.has_cell_state(); }

    /// call(), and if it runs out of memory nothing may be written.
    template <class Call>
    auto attempt(Call call) const {
        try {
            const InCore now;
            return call();
        } catch (const std::bad_alloc&) {
            bool untouched = true;
            for (const Fenced<Real>* a :
                 {&output, &final_h, &final_c, &cells, &prediction, &x, &h, &c, &hidden, &output_weight, &output_bias})
                untouched = untouched && a->untouched();
            for (const RecurrenceFences<Real>& u : recurrences)
                for (const Fenced<Real>* a : {&u.weight_ih, &u.weight_hh, &u.bias_ih, &u.bias_hh, &u.peephole, &u.weight_hr})
                    untouched = untouched && a->untouched();
            if (!untouched) throw std::logic_error("a result was written before memory ran out");
            throw;
        }
    }

    // Threads of the tests' own run what follows, so that a breach is an exception here and no REQUIRE.

    /// What was written; what was not must still be guards.
    static Values taken(const Fenced<Real>& from, bool written) {
        if (!from.front_holds()) throw std::logic_error("written in front of a result");
        if (!written && !from.untouched()) throw std::logic_error("a result was written that nobody asked for");
        return written ? from.values() : Values();
    }
    /// Of a (.., T, B, columns) array, with zeros where a packed one has no rows.
    Values taken_rows(const Fenced<Real>& from, std::size_t columns, bool written) const {
        const Values rows = taken(from, written);
        if (!n.packed || rows.empty()) return rows;
        Values padded(rows.size() / n.time_rows() * n.rows(), 0.0);
        for (std::size_t i = 0, at = 0; i < padded.size(); ++i)
            if (!n.is_padding(i / columns)) padded[i] = rows[at++];
        return padded;
    }
    void take_gradients(Result& result, Ask ask) const {
        using Gradients = RnnParameterGradients<Real>;
        const bool biases = ask != Ask::least;
        for (const RecurrenceFences<Real>& u : recurrences)
            result.recurrences.push_back(
                {taken(u.weight_ih, left_out != &Gradients::weight_ih), taken(u.weight_hh, left_out != &Gradients::weight_hh),
                 taken(u.bias_ih, biases && left_out != &Gradients::bias_ih),
                 taken(u.bias_hh, biases && left_out != &Gradients::bias_hh), taken(u.peephole, left_out != &Gradients::vectors),
                 taken(u.weight_hr, left_out != &Gradients::weight_hr)});
        result.x = taken_rows(x, n.sizes.inputs, ask != Ask::least && !n.tokens);
        result.h = taken(h, ask == Ask::everything);
        result.c = taken(c, ask == Ask::everything);
        result.hidden = taken_rows(hidden, n.sizes.h_width(), ask == Ask::everything);
    }
    void take_outputs(Result& result, Ask ask) const {
        result.output = taken_rows(output, n.width(), ask == Ask::everything);
        result.final_h = taken(final_h, ask == Ask::everything);
        result.final_c = taken(final_c, ask == Ask::everything);
        result.cells = taken_rows(cells, n.sizes.hidden, ask == Ask::everything);
    }
    void take_final_state(Result& result, Ask ask) const {
        result.final_h = taken(final_h, ask == Ask::everything);
        result.final_c = taken(final_c, ask == Ask::everything);
    }

    const Network& n;
    const LeftOut<Real> left_out;
    std::vector<RecurrenceFences<Real>> recurrences;
    Fenced<Real> output, final_h, final_c, cells, prediction, x, h, c, hidden, output_weight, output_bias;
};

}  // namespace

template <class Real>
Tape<Real> core_forward(const Network& n, Result& result, Ask ask, const MemoryPlan& plan, const Report& report) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    Tape<Real> tape = room.attempt([&] {
        return forward<Real>(a.sizes(), a.parameters.data(), a.input(), a.state(),
                             ask == Ask::everything ? room.outputs() : RnnOutput<Real>{}, plan, report);
    });
    room.take_outputs(result, ask);
    return tape;
}

template <class Real>
void core_backward(const Tape<Real>& tape, const Network& n, Result& result, Ask ask, const Limits& limits, const Report& report,
                   LeftOut<Real> left_out) {
    const Arrays<Real> a(n, limits);
    const Room<Real> room(n, left_out);
    std::vector<RnnParameterGradients<Real>> parameters;
    const RnnGradients<Real> to = room.gradients(ask, parameters);
    room.attempt([&] { backward<Real>(tape, a.upstream(), a.mask_or_null(), to, a.limits(), report); });
    room.take_gradients(result, ask);
}

template <class Real>
Result core_layer(const Network& n, Ask ask, const Limits& limits, LeftOut<Real> left_out, const MemoryPlan& plan) {
    Result result;
    const Tape<Real> tape = core_forward<Real>(n, result, ask, plan);
    core_backward(tape, n, result, ask, limits, {}, left_out);
    return result;
}

template <class Real>
Result core_infer(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    room.attempt([&] { infer<Real>(a.sizes(), a.parameters.data(), a.input(), a.state(), room.outputs()); });
    Result result;
    room.take_outputs(result, Ask::everything);
    return result;
}

template <class Real>
Result core_model(const Network& n, Ask ask, const Limits& limits, const MemoryPlan& plan, const Report& report) {
    const Arrays<Real> a(n, limits);
    const Room<Real> room(n);
    std::vector<RnnParameterGradients<Real>> parameters;
    const RnnGradients<Real> to = room.gradients(ask, parameters);
    Result result;
    result.loss = {room.attempt([&] {
        return loss_and_grad<Real>(a.sizes(), a.parameters.data(), a.input(), a.state(), a.layer(), a.targets(),
                                   ask == Ask::everything ? room.final_state() : RnnState<Real>{}, to,
                                   {room.output_weight.data(), ask == Ask::least ? nullptr : room.output_bias.data()}, a.limits(),
                                   plan, report);
    })};
    room.take_final_state(result, ask);
    room.take_gradients(result, ask);
    result.output_weight = room.taken(room.output_weight, true);
    result.output_bias = room.taken(room.output_bias, ask != Ask::least);
    return result;
}

template <class Real>
Result core_loss(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    Result result;
    result.loss = {room.attempt([&] {
        return loss<Real>(a.sizes(), a.parameters.data(), a.input(), a.state(), a.layer(), a.targets(), room.final_state());
    })};
    room.take_final_state(result, Ask::everything);
    return result;
}

template <class Real>
Result core_predict(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    room.attempt([&] {
        predict<Real>(a.sizes(), a.parameters.data(), a.input(), a.state(), a.layer(), room.prediction.data(), room.final_state());
    });
    Result result;
    result.prediction = room.taken(room.prediction, true);
    room.take_final_state(result, Ask::everything);
    return result;
}

template <class Real>
std::size_t core_tape_bytes(const Network& n) {
    return tape_bytes<Real>(Arrays<Real>(n).sizes(), n.tokens);
}

template <class Real>
MemoryPlan core_plan(const Network& n, bool model, std::size_t limit) {
    const Arrays<Real> a(n);
    if (model) return plan_model_memory<Real>(a.sizes(), n.tokens, true, n.outputs, n.loss, n.last_only, limit);
    return plan_memory<Real>(a.sizes(), n.tokens, true, limit);
}

#define PYBPTT_INSTANTIATE(Real)                                                                                     \
    template Tape<Real> core_forward<Real>(const Network&, Result&, Ask, const MemoryPlan&, const Report&);          \
    template void core_backward<Real>(const Tape<Real>&, const Network&, Result&, Ask, const Limits&, const Report&, \
                                      LeftOut<Real>);                                                                \
    template Result core_layer<Real>(const Network&, Ask, const Limits&, LeftOut<Real>, const MemoryPlan&);          \
    template Result core_infer<Real>(const Network&);                                                                \
    template Result core_model<Real>(const Network&, Ask, const Limits&, const MemoryPlan&, const Report&);          \
    template MemoryPlan core_plan<Real>(const Network&, bool, std::size_t);                                          \
    template Result core_loss<Real>(const Network&);                                                                 \
    template Result core_predict<Real>(const Network&);                                                              \
    template std::size_t core_tape_bytes<Real>(const Network&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)
#undef PYBPTT_INSTANTIATE

}  // namespace pybptt::test
