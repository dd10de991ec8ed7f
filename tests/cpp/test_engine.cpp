// Forward, backward and the model against the textbook (network.hpp), in the tier that PYBPTT_TIER names.
#include "allocations.hpp"
#include "network.hpp"
#include "runtime/memory.hpp"

namespace pybptt::test {
namespace {

struct Shape {
    std::size_t T, B, D, H, Q;
};
/// One, odd numbers, around the 16 floats or 8 doubles of a panel and the 12 rows of a tile, several chunks of 512 rows.
constexpr Shape kShapes[] = {{1, 1, 1, 1, 1},     {2, 3, 5, 7, 4},   {7, 1, 17, 16, 3}, {3, 2, 1, 15, 16},  {5, 13, 1, 31, 33},
                             {3, 33, 19, 65, 17}, {9, 12, 16, 8, 2}, {600, 1, 3, 5, 2}, {41, 26, 4, 17, 9}, {2, 530, 3, 9, 5}};
/// T, B or D may be 0 and a layer is still a layer. So may H, and Q with a squared error.
constexpr Shape kEmpty[] = {{0, 3, 4, 5, 2}, {3, 0, 4, 5, 2}, {3, 2, 0, 5, 2}, {3, 2, 4, 0, 2}, {0, 0, 0, 0, 1}, {0, 1, 1, 1, 1}};

Network network(const Shape& s, Nonlinearity nonlinearity, std::size_t variant) {
    Network n;
    n.sizes = {s.T, s.B, s.D, s.H, nonlinearity};
    n.outputs = s.Q;
    n.tokens = (variant & 1) != 0 && s.D != 0;
    n.bias = (variant & 2) == 0;
    n.initial_state = (variant & 4) == 0;
    n.last_only = (variant & 8) != 0;
    n.loss = (variant & 16) != 0 ? Loss::squared_error : Loss::cross_entropy;
    return n.fill(variant + 100 * s.H + s.T);
}
constexpr std::size_t kVariants = 32;
constexpr Nonlinearity kAll[] = {Nonlinearity::tanh, Nonlinearity::relu, Nonlinearity::sigmoid, Nonlinearity::identity};

/// test(network) for all shapes; variants and nonlinearities take turns, so that every pair of choices comes up.
template <class Test>
void for_each_network(Test test) {
    std::size_t turn = 0;
    for (const Shape& shape : kShapes)
        for (std::size_t i = 0; i < 8; ++i, ++turn) {
            const Network n = network(shape, kAll[turn % 4], turn * 13 % kVariants);
            CAPTURE(n.describe());
            test(n);
        }
    for (const Shape& shape : kEmpty)
        for (std::size_t i = 0; i < 8; ++i, ++turn) {
            const Network n = network(shape, Nonlinearity::tanh, turn * 13 % kVariants);
            CAPTURE(n.describe());
            test(n);
        }
}

TEST_SUITE_BEGIN("engine");

TEST_CASE_TEMPLATE("forward and backward are the textbook's", Real, float, double) {
    for_each_network([](const Network& n) {
        const Result expected = textbook_layer(n), got = core_layer<Real>(n);
        CHECK(difference(expected, got, tolerance<Real>(n)) == "");
        // What else is asked for changes nothing.
        CHECK(difference(got, core_layer<Real>(n, Ask::least), 0) == "");
        CHECK(difference(expected, core_infer<Real>(n), tolerance<Real>(n)) == "");
    });
}

TEST_CASE_TEMPLATE("loss, its gradients and predictions are the textbook's", Real, float, double) {
    for_each_network([](const Network& n) {
        const Result expected = textbook_model(n), got = core_model<Real>(n);
        CHECK(difference(expected, got, tolerance<Real>(n)) == "");
        CHECK(difference(got, core_model<Real>(n, kNoTruncation, Ask::least), 0) == "");
        CHECK(difference(expected, core_loss<Real>(n), tolerance<Real>(n)) == "");
        CHECK(difference(expected, core_predict<Real>(n), tolerance<Real>(n)) == "");
    });
}

TEST_CASE_TEMPLATE("truncated gradients are the textbook's", Real, float, double) {
    for (const Shape& shape : {Shape{7, 3, 5, 17, 4}, Shape{40, 1, 3, 9, 2}, Shape{60, 11, 2, 16, 3}, Shape{1, 2, 2, 3, 2}})
        for (const std::size_t truncation :
             {std::size_t(0), std::size_t(1), std::size_t(2), std::size_t(5), shape.T - 2, shape.T - 1, shape.T + 3})
            for (const std::size_t variant : {0, 1, 6, 24}) {
                const Network n = network(shape, kAll[(truncation + variant) % 4], variant);
                CAPTURE(n.describe());
                CAPTURE(truncation);
                const Result expected = textbook_model(n, truncation), got = core_model<Real>(n, truncation, Ask::gradients);
                CHECK(difference(expected, got, tolerance<Real>(n)) == "");
            }
}

TEST_CASE_TEMPLATE("no result depends on what was in memory before", Real, float, double) {
    for (const Shape& shape : {Shape{3, 33, 19, 65, 17}, Shape{600, 1, 3, 5, 2}})
        for (const std::size_t variant : {0, 1, 8, 16}) {
            const Network n = network(shape, Nonlinearity::tanh, variant);
            CAPTURE(n.describe());
            const Result layer = core_layer<Real>(n), model = core_model<Real>(n),
                         truncated = core_model<Real>(n, 2, Ask::gradients);
            fill_new_memory_with(0);
            CHECK(difference(layer, core_layer<Real>(n), 0) == "");
            CHECK(difference(model, core_model<Real>(n), 0) == "");
            CHECK(difference(truncated, core_model<Real>(n, 2, Ask::gradients), 0) == "");
            fill_new_memory_with(kGuardByte);
        }
}

TEST_CASE_TEMPLATE("NaN and infinity in one sample leave the other samples' states alone", Real, float, double) {
    Network n = network({5, 4, 3, 20, 3}, Nonlinearity::tanh, 0);
    const Result clean = core_layer<Real>(n);
    const std::size_t H = n.sizes.hidden, B = n.sizes.batch, bad = 2;
    n.x[(1 * B + bad) * n.sizes.inputs] = std::numeric_limits<double>::quiet_NaN();
    const Result got = core_layer<Real>(n);
    for (std::size_t t = 0; t < n.sizes.steps; ++t)
        for (std::size_t b = 0; b < B; ++b)
            for (std::size_t u = 0; u < H; ++u) {
                const std::size_t i = (t * B + b) * H + u;
                if (b == bad && t >= 1)
                    REQUIRE(std::isnan(got.output[i]));
                else
                    REQUIRE(got.output[i] == clean.output[i]);
                if (b != bad) REQUIRE(got.hidden[i] == clean.hidden[i]);
            }
    CHECK(std::isnan(got.weight_hh[0]));
}

TEST_CASE_TEMPLATE("a tape keeps what it needs, and serves more than once", Real, float, double) {
    const Network n = network({6, 5, 7, 18, 3}, Nonlinearity::tanh, 0);
    const auto [T, B, D, H, phi] = n.sizes;
    Fenced<Real> weight_ih(n.weight_ih), weight_hh(n.weight_hh), bias(n.bias_ih), x(n.x), state(n.state), output(T * B * H);
    const Tape<Real> tape = forward<Real>(n.sizes, {weight_ih.data(), weight_hh.data(), bias.data(), bias.data()},
                                          {x.data(), nullptr}, state.data(), output.data(), nullptr);
    CHECK(tape.sizes().hidden == H);
    CHECK(tape.has_dense_input());
    CHECK(tape.bytes() >= (T * B * (D + H) + H * (D + H)) * sizeof(Real));
    const Fenced<Real> d_output(n.d_output);
    const auto gradients = [&] {
        const Fenced<Real> to_ih(H * D), to_hh(H * H), to_x(T * B * D);
        backward<Real>(tape, d_output.data(), nullptr,
                       {to_ih.data(), to_hh.data(), nullptr, nullptr, to_x.data(), nullptr, nullptr});
        Result result;
        result.weight_ih = to_ih.values();
        result.weight_hh = to_hh.values();
        result.x = to_x.values();
        return result;
    };
    const Result first = gradients();
    for (const auto* array : {&weight_ih, &weight_hh, &bias, &x, &state, &output}) std::fill(array->begin(), array->end(), Real(7));
    CHECK(difference(first, gradients(), 0) == "");
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
