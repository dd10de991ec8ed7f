#include "network.hpp"

#include <initializer_list>
#include <stdexcept>

#include "runtime/memory.hpp"

namespace pybptt::test {

Network& Network::fill(std::uint64_t seed) {
    Random random(seed);
    const auto [T, B, D, H, phi] = sizes;
    const std::size_t Q = outputs;
    const auto values = [&](std::size_t count, double size) {
        Values v(count);
        std::generate(v.begin(), v.end(), random.reals(size));
        return v;
    };
    const auto classes_below = [&](std::size_t count, std::size_t limit) {
        std::vector<std::int64_t> v(count);
        for (std::int64_t& id : v) id = std::int64_t(random.below(limit));
        return v;
    };
    const auto fan_in = [](std::size_t n) { return n == 0 ? 1 : 1 / std::sqrt(double(n)); };
    weight_ih = values(H * D, fan_in(D));
    weight_hh = values(H * H, fan_in(H));
    bias_ih = values(H, 0.5);
    bias_hh = values(H, 0.5);
    if (tokens)
        ids = classes_below(T * B, D);
    else
        x = values(T * B * D, 1);
    state = values(B * H, 1);
    d_output = values(T * B * H, 1);
    d_state = values(B * H, 1);
    output_weight = values(Q * H, fan_in(H));
    output_bias = values(Q, 0.5);
    if (loss == Loss::cross_entropy)
        classes = classes_below(target_rows(), Q);
    else
        y = values(target_rows() * Q, 1);
    return *this;
}

std::string Network::describe() const {
    const auto [T, B, D, H, phi] = sizes;
    std::string text = "T " + std::to_string(T) + " B " + std::to_string(B) + " D " + std::to_string(D) + " H " +
                       std::to_string(H) + " Q " + std::to_string(outputs) + " phi " + std::to_string(int(phi));
    for (const auto& [is, name] : {std::pair{tokens, " tokens"},
                                   {!bias, " no bias"},
                                   {!initial_state, " no state"},
                                   {last_only, " last only"},
                                   {loss == Loss::squared_error, " squared error"}})
        if (is) text += name;
    return text;
}

namespace {

std::string difference(const char* name, const Values& expected, const Values& got, double tolerance) {
    if (expected.empty() || got.empty()) return "";
    if (expected.size() != got.size()) return std::string(name) + ": sizes differ";
    double largest = 1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const bool close = std::abs(expected[i] - got[i]) <= tolerance * largest;
        if (tolerance == 0 ? std::memcmp(&expected[i], &got[i], sizeof(double)) == 0 : close) continue;
        return std::string(name) + "[" + std::to_string(i) + "]: expected " + std::to_string(expected[i]) + ", got " +
               std::to_string(got[i]) + "; largest " + std::to_string(largest);
    }
    return "";
}

}  // namespace

std::string difference(const Result& expected, const Result& got, double tolerance) {
    const auto field = [&](const char* name, Values Result::* values) {
        return difference(name, expected.*values, got.*values, tolerance);
    };
    std::string all;
    for (const std::string& one :
         {field("loss", &Result::loss), field("output", &Result::output), field("final_state", &Result::final_state),
          field("prediction", &Result::prediction), field("d weight_ih", &Result::weight_ih),
          field("d weight_hh", &Result::weight_hh), field("d bias_ih", &Result::bias_ih), field("d bias_hh", &Result::bias_hh),
          field("d x", &Result::x), field("d state", &Result::state), field("d hidden", &Result::hidden),
          field("d output_weight", &Result::output_weight), field("d output_bias", &Result::output_bias)})
        if (!one.empty()) all += (all.empty() ? "" : "; ") + one;
    return all;
}

namespace {

/// The network's arrays in the core's type.
template <class Real>
struct Arrays {
    explicit Arrays(const Network& network)
        : n(network),
          weight_ih(n.weight_ih),
          weight_hh(n.weight_hh),
          bias_ih(n.bias_ih),
          bias_hh(n.bias_hh),
          x(n.x),
          state(n.state),
          d_output(n.d_output),
          d_state(n.d_state),
          output_weight(n.output_weight),
          output_bias(n.output_bias),
          y(n.y),
          ids(n.ids.size()),
          classes(n.classes.size()) {
        std::copy(n.ids.begin(), n.ids.end(), ids.begin());
        std::copy(n.classes.begin(), n.classes.end(), classes.begin());
        release_cached_memory();  // so that all memory of the call is new, and filled
    }

    RnnParameters<Real> parameters() const {
        return {weight_ih.data(), weight_hh.data(), n.bias ? bias_ih.data() : nullptr, n.bias ? bias_hh.data() : nullptr};
    }
    RnnInput<Real> input() const { return {n.tokens ? nullptr : x.data(), n.tokens ? ids.data() : nullptr}; }
    const Real* initial_state() const { return n.initial_state ? state.data() : nullptr; }
    OutputLayer<Real> layer() const {
        return {n.outputs, output_weight.data(), n.bias ? output_bias.data() : nullptr, n.last_only};
    }
    Targets<Real> targets() const { return {n.loss, n.scale, classes.data(), y.data()}; }

    const Network& n;
    Fenced<Real> weight_ih, weight_hh, bias_ih, bias_hh, x, state, d_output, d_state, output_weight, output_bias, y;
    Fenced<std::int64_t> ids, classes;
};

/// Where the core writes.
template <class Real>
struct Room {
    explicit Room(const Network& n)
        : output(n.sizes.steps * n.sizes.batch * n.sizes.hidden),
          final_state(n.sizes.batch * n.sizes.hidden),
          prediction(n.target_rows() * n.outputs),
          weight_ih(n.sizes.hidden * n.sizes.inputs),
          weight_hh(n.sizes.hidden * n.sizes.hidden),
          bias_ih(n.sizes.hidden),
          bias_hh(n.sizes.hidden),
          x(n.sizes.steps * n.sizes.batch * n.sizes.inputs),
          state(n.sizes.batch * n.sizes.hidden),
          hidden(n.sizes.steps * n.sizes.batch * n.sizes.hidden),
          output_weight(n.outputs * n.sizes.hidden),
          output_bias(n.outputs) {}

    RnnGradients<Real> gradients(Ask ask, bool tokens) const {
        RnnGradients<Real> to{weight_ih.data(), weight_hh.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
        if (ask == Ask::least) return to;
        to.bias_ih = bias_ih.data();
        to.bias_hh = bias_hh.data();
        if (!tokens) to.input = x.data();
        if (ask == Ask::gradients) return to;
        to.state = state.data();
        to.hidden = hidden.data();
        return to;
    }

    Fenced<Real> output, final_state, prediction, weight_ih, weight_hh, bias_ih, bias_hh, x, state, hidden, output_weight,
        output_bias;
};

// Threads of the tests' own run the functions below, so that a breach is an exception here and no REQUIRE.

/// What was written; what was not must still be guards.
template <class Real>
Values taken(const Fenced<Real>& from, bool written) {
    if (!from.front_holds()) throw std::logic_error("written in front of a result");
    if (!written && !from.untouched()) throw std::logic_error("a result was written that nobody asked for");
    return written ? from.values() : Values();
}
/// call(), and if it runs out of memory nothing may be written.
template <class Real, class Call>
auto attempt(Call call, std::initializer_list<const Fenced<Real>*> results) {
    try {
        return call();
    } catch (const std::bad_alloc&) {
        for (const Fenced<Real>* result : results)
            if (!result->untouched()) throw std::logic_error("a result was written before memory ran out");
        throw;
    }
}
template <class Real>
void take_gradients(Result& result, const Room<Real>& room, Ask ask, bool tokens) {
    result.weight_ih = taken(room.weight_ih, true);
    result.weight_hh = taken(room.weight_hh, true);
    result.bias_ih = taken(room.bias_ih, ask != Ask::least);
    result.bias_hh = taken(room.bias_hh, ask != Ask::least);
    result.x = taken(room.x, ask != Ask::least && !tokens);
    result.state = taken(room.state, ask == Ask::everything);
    result.hidden = taken(room.hidden, ask == Ask::everything);
}

}  // namespace

template <class Real>
Result core_layer(const Network& n, Ask ask) {
    const bool everything = ask == Ask::everything;
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    const Tape<Real> tape = attempt<Real>(
        [&] {
            return forward<Real>(n.sizes, a.parameters(), a.input(), a.initial_state(), everything ? room.output.data() : nullptr,
                                 everything ? room.final_state.data() : nullptr);
        },
        {&room.output, &room.final_state});
    attempt<Real>([&] { backward<Real>(tape, a.d_output.data(), a.d_state.data(), room.gradients(ask, n.tokens)); },
                  {&room.weight_ih, &room.weight_hh, &room.bias_ih, &room.bias_hh, &room.x, &room.state, &room.hidden});
    Result result;
    result.output = taken(room.output, everything);
    result.final_state = taken(room.final_state, everything);
    take_gradients(result, room, ask, n.tokens);
    return result;
}

template <class Real>
Result core_infer(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    attempt<Real>(
        [&] { infer<Real>(n.sizes, a.parameters(), a.input(), a.initial_state(), room.output.data(), room.final_state.data()); },
        {&room.output, &room.final_state});
    Result result;
    result.output = taken(room.output, true);
    result.final_state = taken(room.final_state, true);
    return result;
}

template <class Real>
Result core_model(const Network& n, std::size_t truncation, Ask ask) {
    const bool everything = ask == Ask::everything;
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    Result result;
    result.loss = {attempt<Real>(
        [&] {
            return loss_and_grad<Real>(n.sizes, a.parameters(), a.input(), a.initial_state(), a.layer(), a.targets(),
                                       everything ? room.final_state.data() : nullptr, room.gradients(ask, n.tokens),
                                       {room.output_weight.data(), ask == Ask::least ? nullptr : room.output_bias.data()},
                                       truncation);
        },
        {&room.final_state, &room.weight_ih, &room.weight_hh, &room.bias_ih, &room.bias_hh, &room.x, &room.state, &room.hidden,
         &room.output_weight, &room.output_bias})};
    result.final_state = taken(room.final_state, everything);
    take_gradients(result, room, ask, n.tokens);
    result.output_weight = taken(room.output_weight, true);
    result.output_bias = taken(room.output_bias, ask != Ask::least);
    return result;
}

template <class Real>
Result core_loss(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    Result result;
    result.loss = {attempt<Real>(
        [&] {
            return loss<Real>(n.sizes, a.parameters(), a.input(), a.initial_state(), a.layer(), a.targets(),
                              room.final_state.data());
        },
        {&room.final_state})};
    result.final_state = taken(room.final_state, true);
    return result;
}

template <class Real>
Result core_predict(const Network& n) {
    const Arrays<Real> a(n);
    const Room<Real> room(n);
    attempt<Real>(
        [&] {
            predict<Real>(n.sizes, a.parameters(), a.input(), a.initial_state(), a.layer(), room.prediction.data(),
                          room.final_state.data());
        },
        {&room.prediction, &room.final_state});
    Result result;
    result.prediction = taken(room.prediction, true);
    result.final_state = taken(room.final_state, true);
    return result;
}

#define PYBPTT_INSTANTIATE(Real)                                        \
    template Result core_layer<Real>(const Network&, Ask);              \
    template Result core_infer<Real>(const Network&);                   \
    template Result core_model<Real>(const Network&, std::size_t, Ask); \
    template Result core_loss<Real>(const Network&);                    \
    template Result core_predict<Real>(const Network&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt::test
