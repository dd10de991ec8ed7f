// Forward, backward and the model against the textbook (network.hpp), in the tier that PYBPTT_TIER names.
#include "allocations.hpp"
#include "engine/tape.hpp"
#include "large_networks.hpp"

namespace pybptt::test {
namespace {

/// One, odd numbers, around the 16 floats or 8 doubles of a panel and the 12 rows of a tile, several chunks.
constexpr Shape kShapes[] = {{1, 1, 1, 1, 1},     {2, 3, 5, 7, 4},   {7, 1, 17, 16, 3}, {3, 2, 1, 15, 16},  {5, 13, 1, 31, 33},
                             {3, 33, 19, 65, 17}, {9, 12, 16, 8, 2}, {600, 1, 3, 5, 2}, {41, 26, 4, 17, 9}, {2, 530, 3, 9, 5}};

constexpr std::size_t kTimes = kQuick ? 1 : 2;  // that a cell and a size come up, with other choices beside

template <class Real>
void check_layer(const Network& n, const Result& expected) {
    const Result got = core_layer<Real>(n);
    CHECK(difference(expected, got, tolerance<Real>(n)) == "");
    // What else is asked for changes nothing.
    CHECK(difference(got, core_layer<Real>(n, Ask::least), 0) == "");
    CHECK(difference(expected, core_infer<Real>(n), tolerance<Real>(n)) == "");
}
template <class Real>
void check_model(const Network& n, const Result& expected) {
    const Result got = core_model<Real>(n);
    CHECK(difference(expected, got, tolerance<Real>(n)) == "");
    CHECK(difference(got, core_model<Real>(n, Ask::least), 0) == "");
    CHECK(difference(expected, core_loss<Real>(n), tolerance<Real>(n)) == "");
    CHECK(difference(expected, core_predict<Real>(n), tolerance<Real>(n)) == "");
}
void check(const Network& n) {
    CAPTURE(n.describe());
    const Result layer = textbook_layer(n), model = textbook_model(n);
    check_layer<float>(n, layer);
    check_layer<double>(n, layer);
    check_model<float>(n, model);
    check_model<double>(n, model);
}

TEST_SUITE_BEGIN("engine");

TEST_CASE("the textbook's derivatives are those of its loss") {
    for (const std::vector<CellConfig>* cells : {&kElman, &kCells, &kClipped})
        for (const CellConfig& cell : *cells) {
            Network n = network({4, 3, 2, 3, 3}, cell, 32 + 64 + (cell.clip != 0 ? 16 : 0), 2, 2);
            n = clear_of_kinks(n);
            CAPTURE(n.describe());
            const Result expected = textbook_model(n);
            const auto check_slope = [&](double& value, double slope) {
                const double before = value, step = 1e-6;
                value = before + step;
                const double above = textbook_model(n).loss[0];
                value = before - step;
                const double below = textbook_model(n).loss[0];
                value = before;
                CHECK(slope == doctest::Approx((above - below) / (2 * step)).epsilon(1e-6));
            };
            for (std::size_t i = 0; i < n.recurrences.size(); ++i)
                for (Values RecurrenceValues::* const of :
                     {&RecurrenceValues::weight_ih, &RecurrenceValues::weight_hh, &RecurrenceValues::bias_ih,
                      &RecurrenceValues::bias_hh, &RecurrenceValues::peephole, &RecurrenceValues::weight_hr})
                    for (std::size_t at = i; at < (n.recurrences[i].*of).size(); at += 7)
                        check_slope((n.recurrences[i].*of)[at], (expected.recurrences[i].*of)[at]);
            for (Values Network::* const of : {&Network::x, &Network::h, &Network::c})
                for (std::size_t at = 1; at < (n.*of).size(); at += 5)
                    check_slope((n.*of)[at], (of == &Network::x ? expected.x : of == &Network::h ? expected.h : expected.c)[at]);
        }
}

TEST_CASE("these shapes do make several chunks and slices") {
    Result result;
    const Tape<float> long_one = core_forward<float>(network(kSmall[2], kCells[1], 0), result);
    CHECK(long_one.contents().recurrences[0]->cut.chunks() > 1);
    CHECK(long_one.contents().recurrences[0]->cut.slices() > 1);
    const Tape<float> wide_one = core_forward<float>(network(kSmall[3], kCells[1], 32), result);
    CHECK(wide_one.contents().recurrences[0]->cut.chunks() > 1);
    CHECK(wide_one.contents().recurrences[0]->cut.slices() > 1);
}

TEST_CASE("one Elman recurrence of any size is the textbook's") {
    std::size_t turn = 0;
    for (const Shape& shape : kShapes)
        for (std::size_t i = 0; i < 4 * kTimes; ++i, ++turn) check(network(shape, kElman[turn % 4], turn * 13 % 32));
}

TEST_CASE("one recurrence of every cell and any size is the textbook's") {
    std::size_t turn = 0;
    for (const Shape& shape : kShapes)
        for (std::size_t i = 0; i < 2 * kTimes; ++i, ++turn) check(network(shape, kCells[1 + turn % 6], turn * 37 % kVariants));
}

TEST_CASE("layers and directions are the textbook's") {
    std::size_t turn = 0;
    for (const CellConfig& cell : kCells)
        for (std::size_t layers = 1; layers <= 3; ++layers)
            for (std::size_t directions = 1; directions <= 2; ++directions)
                for (std::size_t i = 0; i < kTimes; ++i, ++turn)
                    check(network(kSmall[turn % 5], cell, turn * 89 % kVariants, layers, directions));
}

TEST_CASE("LSTM with recurrent projection is the textbook's") {
    std::size_t turn = 0;
    for (const CellConfig& cell : {lstm(false, false), lstm(true, false), lstm(false, true), lstm(true, true)})
        for (const std::size_t P : {1, 3, 16, 21})
            for (const auto& [layers, directions] : {std::pair{1, 1}, {3, 1}, {2, 2}}) {
                const Network n =
                    network(kSmall[turn % 5], cell, turn * 89 % kVariants, std::size_t(layers), std::size_t(directions));
                ++turn;
                check(projected(n, P));
            }
    check(clear_of_kinks(projected(network(kSmall[0], lstm(true, false, kClip), 0, 2), 3)));
    for (const Shape& shape : kEmpty) check(projected(network(shape, lstm(true, false), 32, 2), 2));
}

TEST_CASE("clipped networks are the textbook's") {
    std::size_t turn = 0;
    for (const CellConfig& cell : kClipped)
        for (const auto& [layers, directions] : {std::pair{1, 1}, {2, 1}, {1, 2}}) {
            const Network n = network(kSmall[turn % 5], cell, turn * 89 % kVariants, std::size_t(layers), std::size_t(directions));
            ++turn;
            check(clear_of_kinks(n));
        }
}

TEST_CASE("networks whose x has a few rows that return are the textbook's") {
    std::size_t turn = 0;
    for (const CellConfig& cell : kCells)
        for (std::size_t directions = 1; directions <= 2; ++directions, ++turn) {
            Network n = network({40, 16, 33, 9, 3}, cell, 0, 1 + turn % 2, directions);
            REQUIRE(!n.tokens);
            n = with_repeated_rows(n, turn % 3 == 0 ? 1 : 30);
            check(n);
            Result result;
            const auto tape = core_forward<float>(n, result);
            for (std::size_t i = 0; i < directions; ++i) CHECK(tape.contents().recurrences[i]->selection.count != 0);
        }
}

TEST_CASE("networks with nothing in them are networks") {
    std::size_t turn = 0;
    for (const Shape& shape : kEmpty)
        for (const CellConfig& cell : kCells)
            for (std::size_t layers = 1; layers <= 2; ++layers, ++turn)
                check(network(shape, cell, turn * 89 % kVariants, layers, 1 + turn % 2));
}

TEST_CASE("sequences of no steps, of one, and all of the same length") {
    std::size_t turn = 0;
    for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(true, false), gru(false)})
        for (const std::size_t B : {1, 3, 8, 17})
            for (const std::int64_t length : {0, 1, 4, 5})
                for (std::size_t directions = 1; directions <= 2; ++directions, ++turn) {
                    Network n = network({5, B, 3, 5, 3}, cell, (turn * 89 % kVariants) | 32, 1 + turn % 2, directions);
                    std::fill(n.lengths.begin(), n.lengths.end(), length);
                    check(n);
                }
}

TEST_CASE_TEMPLATE("a sequence's results do not depend on what it is in a batch with", Real, float, double) {
    for (const CellConfig& cell : {elman(Nonlinearity::relu), lstm(false, false), gru(true)}) {
        const Network all = network({30, 21, 3, 9, 2}, cell, 32, 2, 2);
        const Result together = core_layer<Real>(all);
        for (const std::size_t b : {0, 7, 11, 20}) {
            const std::size_t T = all.length(b), B = all.sizes.batch;
            Network one = all;
            one.ragged = false;
            one.lengths.clear();
            one.sizes.steps = T;
            one.sizes.batch = 1;
            const auto sample = [&](const Values& from, std::size_t columns, std::size_t steps) {
                Values to;
                for (std::size_t row = 0; row < from.size() / columns; ++row)
                    if (row % B == b && (steps == 0 || row / B % steps < T))
                        to.insert(to.end(), from.begin() + std::ptrdiff_t(row * columns),
                                  from.begin() + std::ptrdiff_t((row + 1) * columns));
                return to;
            };
            const std::size_t D = all.sizes.inputs, H = all.sizes.hidden, S = all.sizes.steps;
            one.x = sample(all.x, D, S);
            one.d_output = sample(all.d_output, all.width(), S);
            one.d_cells = sample(all.d_cells, H, S);
            for (Values Network::* const state : {&Network::h, &Network::c, &Network::d_h, &Network::d_c})
                one.*state = sample(all.*state, H, 0);
            const Result alone = core_layer<Real>(one);
            Result expected;
            expected.output = sample(together.output, all.width(), S);
            expected.cells = sample(together.cells, H, S);
            expected.hidden = sample(together.hidden, H, S);
            expected.x = sample(together.x, D, S);
            expected.final_h = sample(together.final_h, H, 0);
            expected.final_c = sample(together.final_c, H, 0);
            expected.h = sample(together.h, H, 0);
            expected.c = sample(together.c, H, 0);
            CAPTURE(b);
            CHECK(difference(expected, alone, tolerance<Real>(all)) == "");
        }
    }
}

TEST_CASE_TEMPLATE("no result depends on what was in memory before", Real, float, double) {
    std::size_t turn = 0;
    for (const Shape& shape : {Shape{3, 33, 5, 19, 4}, Shape{260, 2, 3, 5, 2}})
        for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(true, false), gru(true), gru(false)})
            for (const std::size_t variant : {0, 1, 8 + 32, 16 + 32}) {
                const Network n = network(shape, cell, variant, 1 + turn % 2, 1 + turn / 2 % 2);
                ++turn;
                CAPTURE(n.describe());
                const auto run = [&] {
                    std::vector<Result> all = {core_layer<Real>(n), core_model<Real>(n), core_infer<Real>(n), core_loss<Real>(n),
                                               core_predict<Real>(n)};
                    if (n.sizes.directions == 1) all.push_back(core_model<Real>(n, Ask::everything, windows(1, 3)));
                    return all;
                };
                const std::vector<Result> before = run();
                fill_new_memory_with(0);
                const std::vector<Result> after = run();
                fill_new_memory_with(kGuardByte);
                for (std::size_t i = 0; i < before.size(); ++i) CHECK(difference(before[i], after[i], 0) == "");
            }
}

TEST_CASE_TEMPLATE("NaN and infinity in one sample leave the other samples' states alone", Real, float, double) {
    for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(false, false), gru(true), gru(false, kClip)}) {
        Network n = network({5, 4, 3, 20, 3}, cell, 0);
        const Result clean = core_layer<Real>(n);
        const std::size_t H = n.sizes.hidden, B = n.sizes.batch, bad = 2;
        n.x[(1 * B + bad) * n.sizes.inputs] = std::numeric_limits<double>::quiet_NaN();
        const Result got = core_layer<Real>(n);
        CAPTURE(n.describe());
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
        CHECK(std::isnan(got.recurrences[0].weight_hh[0]));
    }
}

TEST_CASE_TEMPLATE("a tape holds what it says, and serves more than once", Real, float, double) {
    std::size_t turn = 0;
    for (const CellConfig& cell : kCells)
        for (const Shape& shape : {Shape{6, 5, 7, 18, 3}, Shape{40, 20, 2, 5, 3}})
            for (const std::size_t variant : {0, 1, 32, 33}) {
                const Network n = network(shape, cell, variant, 1 + turn % 3, 1 + turn / 3 % 2);
                ++turn;
                CAPTURE(n.describe());
                Result first, again;
                const Tape<Real> tape = core_forward<Real>(n, first);
                CHECK(tape.sizes().hidden == shape.H);
                CHECK(tape.sizes().layers == n.sizes.layers);
                CHECK(tape.sizes().lengths == nullptr);
                CHECK(tape.has_dense_input() == !n.tokens);
                CHECK(tape.bytes() == core_tape_bytes<Real>(n));
                if (!n.ragged) CHECK(tape.bytes() >= n.rows() * n.sizes.recurrences() * shape.H * sizeof(Real));
                core_backward(tape, n, first);
                core_backward(tape, n, again);
                CHECK(difference(first, again, 0) == "");
            }
}

/// A packed batch is cut up as the padded one, so that sums have the same order. Its arrays end at the last row (support.hpp).
template <class Real>
void check_packed(Network n, const Limits& limits = {}) {
    n.ragged = true;
    std::sort(n.lengths.rbegin(), n.lengths.rend());
    const Result expected = core_layer<Real>(n, Ask::everything, limits), inferred = core_infer<Real>(n);
    n.packed = true;
    CAPTURE(n.describe());
    CAPTURE(limits.describe());
    const Threads most(3);  // small networks take one
    CHECK(difference(expected, core_layer<Real>(n, Ask::everything, limits), 0) == "");
    CHECK(difference(expected, core_layer<Real>(n, Ask::least, limits), 0) == "");
    CHECK(difference(inferred, core_infer<Real>(n), 0) == "");
    if (n.sizes.directions == 2) return;
    const MemoryPlan plan = core_plan<Real>(n, false, 1);
    CHECK(difference(expected, core_layer<Real>(n, Ask::everything, limits, nullptr, plan), 0) == "");
}

TEST_CASE_TEMPLATE("packed rows give the bits of the padded batch", Real, float, double) {
    std::size_t turn = 0;
    for (const CellConfig& cell : kCells)
        for (std::size_t i = 0; i < kTimes; ++i) {
            const Shape shape = kSmall[turn % 5];
            const std::size_t variants[] = {32, 33, 32 + 64, 32 + 128};
            check_packed<Real>(network(shape, cell, variants[turn % 4], 1 + turn % 2, 1 + turn / 2 % 2));
            const Network stack = network(shape, cell, 32 + 64, 3);
            check_packed<Real>(network(shape, cell, 32 + 64, 3, 2));
            check_packed<Real>(stack, windows(2, 3));
            Limits factors;
            for (std::size_t row = 0; row < stack.rows(); ++row) factors.factors.push_back(double(row % 4) / 2);
            check_packed<Real>(stack, factors);
            ++turn;
        }
    for (const Network& n : large_networks())  // several threads do take part
        if (n.ragged) check_packed<Real>(n);
    Network full = network(kSmall[0], gru(true), 32, 2, 2);
    std::fill(full.lengths.begin(), full.lengths.end(), std::int64_t(full.sizes.steps));
    check_packed<Real>(full);
}

TEST_CASE_TEMPLATE("a parameter's gradient that is left out changes no other", Real, float, double) {
    using Gradients = RnnParameterGradients<Real>;
    std::vector<Network> networks;
    for (const CellConfig& cell : kCells)
        for (const std::size_t variant : {0, 33}) networks.push_back(network(kSmall[0], cell, variant, 2));
    networks.push_back(projected(network(kEmpty[0], lstm(true, false), 0), 2));
    for (const std::size_t large : {4, 5, 7}) networks.push_back(large_networks()[large]);
    const Threads most(3);  // small networks take one
    for (const Network& n : networks)
        for (const Limits& limits : {Limits(), windows(2, 3)}) {
            if (limits.k2 != 0 && n.sizes.directions == 2) continue;
            CAPTURE(n.describe());
            CAPTURE(limits.describe());
            const Result expected = core_layer<Real>(n, Ask::everything, limits);
            for (const LeftOut<Real> left_out : {&Gradients::weight_ih, &Gradients::weight_hh, &Gradients::bias_ih,
                                                 &Gradients::bias_hh, &Gradients::vectors, &Gradients::weight_hr})
                CHECK(difference(expected, core_layer<Real>(n, Ask::everything, limits, left_out), 0) == "");
        }
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
