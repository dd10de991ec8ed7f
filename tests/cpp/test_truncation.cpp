// Truncation and clipping in the sweep against the textbook (network.hpp).
#include "engine/windows.hpp"
#include "network.hpp"

namespace pybptt::test {
namespace {

constexpr std::size_t kDraws = kQuick ? 1 : 3;  // of limits, for each network

template <class Real>
void check_in(const Network& n, const Limits& limits, const Result& layer, const Result& model) {
    const Result got = core_layer<Real>(n, Ask::everything, limits);
    CHECK(difference(layer, got, tolerance<Real>(n)) == "");
    CHECK(difference(got, core_layer<Real>(n, Ask::least, limits), 0) == "");
    const Result of_model = core_model<Real>(n, Ask::everything, limits);
    CHECK(difference(model, of_model, tolerance<Real>(n)) == "");
    CHECK(difference(of_model, core_model<Real>(n, Ask::gradients, limits), 0) == "");
}
void check(const Network& n, const Limits& limits) {
    CAPTURE(n.describe());
    CAPTURE(limits.describe());
    const Result layer = textbook_layer(n, limits), model = textbook_model(n, limits);
    check_in<float>(n, limits, layer, model);
    check_in<double>(n, limits, layer, model);
}

/// k1 and k2: each 1, alike, not alike either way, one that does not divide T, and as long as the sequence or longer.
Limits some_windows(std::size_t T, std::size_t kind) {
    const std::size_t half = T / 2 + 1, all = std::max<std::size_t>(1, T);
    const std::pair<std::size_t, std::size_t> kinds[] = {{1, 1},       {1, 2},       {1, all},    {2, 5},    {3, 2},    {3, 7},
                                                         {4, 4},       {5, 1},       {2, half},   {half, 1}, {half, 3}, {all, 2},
                                                         {all + 2, 3}, {2, all + 4}, {half, all}, {3, 100}};
    return windows(kinds[kind % 16].first, kinds[kind % 16].second);
}
/// xi_t of 1, 0, and what makes up for it; at some steps the same for all samples.
void add_factors(Limits& limits, const Network& n, Random& random) {
    for (std::size_t t = 0; t < n.sizes.steps; ++t) {
        const std::size_t kind = random.below(8);
        for (std::size_t b = 0; b < n.sizes.batch; ++b)
            limits.factors.push_back(kind < 3 ? double(kind) / 2 : double(random.below(4)) / 2);
    }
}
/// About the size of dL/dh_t where little comes from later steps, so that some are clipped.
void add_clip(Limits& limits, const Network& n, HiddenClip kind) {
    limits.clip = kind;
    limits.clip_limit = kind == HiddenClip::value ? 0.5 : 0.5 * std::sqrt(double(n.sizes.hidden));
}
void add_counted(Limits& limits, const Network& n, Random& random) {
    for (std::size_t i = 0; i < n.target_rows(); ++i) limits.counted.push_back(random.below(3) != 0);
}
Limits any_limits(const Network& n, Random& random) {
    const std::size_t kind = random.below(8);
    Limits limits;
    if (kind < 5) limits = some_windows(n.sizes.steps, random.below(16));
    if (kind >= 5 && kind < 7) add_factors(limits, n, random);
    if (kind % 3 != 0) add_clip(limits, n, random.below(2) == 0 ? HiddenClip::norm : HiddenClip::value);
    if (random.below(3) == 0) add_counted(limits, n, random);
    return limits;
}

TEST_SUITE_BEGIN("truncation");

TEST_CASE("no two windows over a step share a copy, and every window has one") {
    const auto holds = [](std::size_t T, const std::vector<std::int64_t>& lengths, std::size_t k1, std::size_t k2) {
        RnnSizes sizes{T, lengths.size(), 1, 1};
        sizes.lengths = lengths.data();
        const Windows windows(Cut::of(sizes, false, find_cell<float>(sizes.cell)), lengths.size(), k1, k2);
        bool good = windows.copies >= 1, even = true;
        std::size_t most = 0;  // windows over a step
        for (const std::int64_t n : lengths) {
            const std::size_t length = std::size_t(n);
            even = even && length % k1 == 0;
            for (std::size_t t = 1; t <= length; ++t) {
                std::size_t over = 0;
                std::vector<char> taken(windows.copies, 0);
                for (std::size_t w = 1; (w - 1) * k1 < length; ++w) {
                    const std::size_t end = std::min(w * k1, length);
                    const bool enters = t <= end && t > (w - 1) * k1, is_over = t <= end && t + k2 > end;
                    good = good && (windows.window_of(t) == w) == enters;
                    const Windows::At at = !is_over ? Windows::At::outside : t == end ? Windows::At::boundary : Windows::At::inside;
                    if (t <= end) good = good && windows.at(w, t, length) == at;
                    if (!is_over) continue;
                    ++over;
                    good = good && !taken[w % windows.copies] && windows.window_of(w % windows.copies, t) == w;
                    taken[w % windows.copies] = true;
                }
                most = std::max(most, over);
                for (std::size_t copy = 0; copy < windows.copies; ++copy) {  // the others know that they are not over it
                    const std::size_t w = windows.window_of(copy, t);
                    good = good && w * k1 >= t && (taken[copy] || windows.at(w, t, length) == Windows::At::outside);
                }
            }
        }
        return good && windows.copies <= std::max<std::size_t>(1, most + (even ? 0 : 1));
    };
    const auto check_windows = [&](std::size_t T, const std::vector<std::int64_t>& lengths, std::size_t k1, std::size_t k2) {
        CAPTURE(T);
        CAPTURE(k1);
        CAPTURE(k2);
        CHECK(holds(T, lengths, k1, k2));
    };
    for (std::size_t T = 0; T <= (kQuick ? 6 : 9); ++T)
        for (std::size_t k1 = 1; k1 <= T + 2; ++k1)
            for (std::size_t k2 = 1; k2 <= T + 2; ++k2) {
                const std::int64_t all = std::int64_t(T);
                check_windows(T, {all}, k1, k2);
                check_windows(T, {all, all, all}, k1, k2);
                for (std::int64_t a = 0; a < all; ++a)
                    for (std::int64_t b = 0; b <= a; ++b) check_windows(T, {b, all, a}, k1, k2);
            }
}

TEST_CASE("limits of all kinds, in every cell and stack, are the textbook's") {
    Random random(1);
    for (const std::vector<CellConfig>* cells : {&kElman, &kCells})
        for (const CellConfig& cell : *cells)
            for (std::size_t layers = 1; layers <= 3; ++layers)
                for (std::size_t i = 0; i < kDraws; ++i) {
                    Network n = network(kSmall[random.below(5)], cell, random.below(kVariants), layers);
                    if (cell.nonlinearity == Nonlinearity::relu) n = clear_of_kinks(n);
                    check(n, any_limits(n, random));
                }
}

TEST_CASE("limits in clipped networks are the textbook's") {
    Random random(2);
    for (const CellConfig& cell : kClipped) {
        const Network n = clear_of_kinks(network(kSmall[random.below(5)], cell, random.below(kVariants), 1 + random.below(2)));
        check(n, any_limits(n, random));
    }
}

TEST_CASE("windows of all lengths are the textbook's") {
    Random random(3);
    for (std::size_t kind = 0; kind < 16; ++kind)
        for (std::size_t i = 0; i < kDraws; ++i) {
            const Network n = network({13, 1 + random.below(9), 2, 1 + random.below(18), 3}, kCells[random.below(7)],
                                      random.below(kVariants), 1 + random.below(3));
            check(n, some_windows(n.sizes.steps, kind));
        }
}

TEST_CASE("limits in larger networks are the textbook's") {
    Random random(4);
    const auto check_all = [&](const Shape& shape, std::size_t k1, std::size_t k2) {
        for (const std::size_t variant : {0, 32}) {
            const std::size_t layers = 1 + random.below(2);
            const Network n =
                network(shape, kCells[random.below(7)], variant + (random.below(kVariants) & ~std::size_t(32)), layers);
            Limits limits = windows(k1, k2);
            check(n, limits);
            add_clip(limits, n, random.below(2) == 0 ? HiddenClip::norm : HiddenClip::value);
            limits.k2 = 0;
            add_factors(limits, n, random);
            check(n, limits);
        }
    };
    check_all({9, 12, 16, 8, 2}, 2, 5);
    check_all({5, 13, 1, 31, 33}, 1, 3);
    check_all({4, 33, 9, 65, 5}, 2, 3);
    check_all({kQuick ? 75u : 210u, 7, 2, 3, 2}, 9, 20);  // many chunks
}

TEST_CASE("copies that are taken some at a time") {
    const Threads one(1);  // 384 KB a thread: 20 copies of 300 rows of a panel, 8 to 11 of 140 rows of 4 or 5 panels
    for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(true, false), gru(false)})
        for (const std::size_t variant : {0, 32 + 64}) {
            const bool simple = cell.kind == CellKind::elman;
            if (kQuick && (variant == 0) != (cell.kind == CellKind::lstm)) continue;
            const Network n = network(simple ? Shape{24, 300, 1, 2, 2} : Shape{15, 140, 2, 3, 2}, cell, variant, simple ? 1 : 2);
            Limits limits = windows(1, n.sizes.steps - 2);
            if (variant == 0) add_clip(limits, n, HiddenClip::norm);
            check(n, limits);
        }
}

TEST_CASE("LSTM with recurrent projection under limits") {
    Random random(9);
    for (const std::size_t P : {2, 19})
        for (const Shape& shape : {Shape{9, 12, 16, 8, 2}, Shape{5, 13, 1, 31, 33}, Shape{75, 7, 2, 3, 2}})
            for (std::size_t i = 0; i < kDraws; ++i) {
                const Network n =
                    projected(network(shape, kCells[i % 2 == 0 ? 1 : 6], random.below(kVariants), 1 + random.below(2)), P);
                check(n, any_limits(n, random));
                check(n, windows(1 + random.below(3), 1 + random.below(6)));
            }
}

TEST_CASE("networks with nothing in them have limits") {
    Random random(6);
    for (const Shape& shape : kEmpty)
        for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(true, false), gru(true), gru(false)})
            for (std::size_t i = 0; i < (kDraws + 1) / 2; ++i) {
                const Network n = network(shape, cell, random.below(kVariants), 1 + random.below(2));
                check(n, any_limits(n, random));
            }
}

TEST_CASE("windows and factors over sequences of no steps, of one, and all of the same length") {
    Random random(7);
    for (const CellConfig& cell : {elman(Nonlinearity::tanh), lstm(true, false), gru(false)})
        for (const std::size_t B : {1, 3, 9})
            for (const std::int64_t length : {0, 1, 4, 5}) {
                Network n = network({5, B, 3, 5, 3}, cell, random.below(kVariants) | 32, 1 + random.below(2));
                std::fill(n.lengths.begin(), n.lengths.end(), length);
                check(n, any_limits(n, random));
                check(n, windows(1 + random.below(3), 1 + random.below(3)));
            }
}

TEST_CASE("which targets count, for every kind of target") {
    Random random(8);
    for (const std::size_t variant : {0, 8, 16, 24, 32, 40, 48, 56})
        for (const Shape& shape : {Shape{6, 5, 3, 7, 4}, Shape{40, 20, 2, 3, 2}}) {
            const Network n = network(shape, kCells[random.below(7)], variant);
            Limits limits;
            add_counted(limits, n, random);
            check(n, limits);
            std::fill(limits.counted.begin(), limits.counted.end(), char(0));
            check(n, limits);
        }
}

TEST_CASE("the longest k1 and k2 that Python can name") {
    constexpr std::size_t longest = std::size_t(std::numeric_limits<std::int64_t>::max());
    const Network n = network({7, 3, 2, 5, 2}, lstm(false, false), 32, 2);
    for (const auto& [k1, k2] :
         {std::pair{longest, longest}, {std::size_t(2), longest}, {longest, std::size_t(2)}, {longest / 2, longest}})
        check(n, windows(k1, k2));
}

TEST_CASE_TEMPLATE("where a factor is 0, infinities do not pass", Real, float, double) {
    for (const CellConfig& cell : {elman(Nonlinearity::identity), lstm(false, false), gru(true), gru(false)})
        for (const std::size_t variant : {0, 32})
            for (const std::size_t T : {8, kQuick ? 40 : 70})  // one chunk, and several: each step is the first of one for some T
                for (const std::size_t step : {std::size_t(3), T / 2, T / 5 * 2, T - 2})
                    for (const bool everywhere : {false, true}) {
                        const std::size_t B = 9, H = 5;
                        Network n = network({T, B, 2, H, 2}, cell, variant);
                        std::size_t b = 0;
                        while (b < B && n.length(b) < step + 2) ++b;
                        REQUIRE(b < B);
                        Limits limits;
                        limits.factors.assign(n.rows(), 1);
                        for (std::size_t i = 0; i < B; ++i)
                            if (everywhere || i == b) limits.factors[step * B + i] = 0;
                        CAPTURE(n.describe());
                        CAPTURE(step);
                        CAPTURE(everywhere);
                        const Result clean = core_layer<Real>(n, Ask::everything, limits);
                        n.d_output[((step + 1) * B + b) * H + 1] = std::numeric_limits<double>::infinity();
                        if (!n.d_cells.empty()) n.d_cells[((step + 1) * B + b) * H + 2] = -std::numeric_limits<double>::infinity();
                        const Result got = core_layer<Real>(n, Ask::everything, limits);
                        const auto same = [&](const Values& a, const Values& c, std::size_t row, std::size_t columns) {
                            return std::memcmp(&a[row * columns], &c[row * columns], columns * sizeof(double)) == 0;
                        };
                        REQUIRE_FALSE(same(clean.hidden, got.hidden, step * B + b, H));
                        bool alike = true;
                        for (std::size_t t = 0; t < T; ++t)
                            for (std::size_t i = 0; i < B; ++i)
                                if (i != b || t < step || t > step + 1)
                                    alike = alike && same(clean.hidden, got.hidden, t * B + i, H);
                        CHECK(alike);
                        CHECK(got.h == clean.h);
                        CHECK(got.c == clean.c);
                    }
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
