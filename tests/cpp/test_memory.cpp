// Memory: alignment, blocks that are kept, sizes that cannot be had, and what a call leaves behind when memory runs out.
#include "allocations.hpp"
#include "network.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"

namespace pybptt::test {
namespace {

constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();

TEST_SUITE_BEGIN("memory");

TEST_CASE("blocks are aligned, as large as asked for, and apart") {
    std::vector<std::pair<char*, std::size_t>> blocks;
    for (const std::size_t bytes : {0, 1, 63, 64, 65, 1000, 1025, 5000, 100'000, 3'000'000, 5'000'000}) {
        auto* block = static_cast<char*>(acquire_memory(bytes));
        CHECK(reinterpret_cast<std::uintptr_t>(block) % kPanelBytes == 0);
        std::memset(block, int(blocks.size()), bytes);
        blocks.emplace_back(block, bytes);
    }
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const auto [block, bytes] = blocks[i];
        CHECK(std::all_of(block, block + bytes, [&](char byte) { return byte == char(i); }));
        release_memory(block);
    }
    release_cached_memory();
}

TEST_CASE("a freed block serves the next request of nearly its size") {
    release_cached_memory();
    void* block = acquire_memory(100'000);
    release_memory(block);
    CHECK(acquire_memory(100'010) == block);
    void* other = acquire_memory(100'000);
    CHECK(other != block);
    release_memory(block);
    release_memory(other);
    release_cached_memory();
}

TEST_CASE("any number of blocks may be freed") {
    std::vector<void*> blocks;
    for (std::size_t i = 0; i < 300; ++i) blocks.push_back(acquire_memory(64 * i));
    for (void* block : blocks) release_memory(block);
    for (std::size_t i = 0; i < 300; i += 7) release_memory(acquire_memory(64 * i));
    release_cached_memory();
}

TEST_CASE("a buffer moves and frees once") {
    Buffer<int> a(10), b;
    a[9] = 42;
    b = std::move(a);
    CHECK(b[9] == 42);
    CHECK(b.size() == 10);
    const Buffer<int> c(std::move(b));
    CHECK(c[9] == 42);
    CHECK(b.size() == 0);
    CHECK(b.data() == nullptr);
}

TEST_CASE("a size that is none throws") {
    CHECK(checked_product(1 << 20, 1 << 20) == std::size_t{1} << 40);
    CHECK(checked_product(0, kHuge) == 0);
    CHECK_THROWS_AS(checked_product(kHuge, 2), std::bad_alloc);
    CHECK_THROWS_AS(checked_product(std::size_t{1} << 32, std::size_t{1} << 32), std::bad_alloc);
    CHECK_THROWS_AS(checked_product(std::size_t{1} << 31, std::size_t{1} << 31), std::bad_alloc);
    CHECK_THROWS_AS(acquire_memory(kHuge), std::bad_alloc);
    CHECK_THROWS_AS(acquire_memory(std::size_t{1} << 61), std::bad_alloc);
    CHECK_THROWS_AS(acquire_memory(std::size_t{1} << 50), std::bad_alloc);
    CHECK_THROWS_AS(Buffer<double>(kHuge / 4), std::bad_alloc);
}

/// One size after another so large that a tape cannot be had: no array is touched, so null pointers do.
TEST_CASE_TEMPLATE("networks too large for memory throw and leave the threads usable", Real, float, double) {
    const std::size_t large = std::size_t{1} << 40, huge = std::size_t{1} << 62;
    for (const RnnSizes& sizes :
         {RnnSizes{1, large, 1, large}, RnnSizes{1, 1, 1, large}, RnnSizes{1, kHuge, 1, 1}, RnnSizes{2, huge, 1, 1},
          RnnSizes{huge, huge, 1, 1}, RnnSizes{1, 1, 1, huge}, RnnSizes{1, 1, huge, 1}}) {
        CAPTURE(sizes.batch);
        CAPTURE(sizes.hidden);
        const RnnParameters<Real> none{};
        CHECK_THROWS_AS(forward<Real>(sizes, &none, {}, {}, {}), std::bad_alloc);
        CHECK_THROWS_AS(infer<Real>(sizes, &none, {}, {}, {}), std::bad_alloc);
        CHECK_THROWS_AS(loss<Real>(sizes, &none, {}, {}, {1, nullptr, nullptr, false}, {}, {}), std::bad_alloc);
        CHECK_THROWS_AS(predict<Real>(sizes, &none, {}, {}, {1, nullptr, nullptr, false}, nullptr, {}), std::bad_alloc);
        CHECK_THROWS_AS(tape_bytes<Real>(sizes, false), std::bad_alloc);
    }
    CHECK(Team(2).size() == 2);
}

/// Fails every allocation of a call in turn. Returns how many the call makes.
template <class Call>
int fail_each_allocation(Call call) {
    const Result expected = call();
    for (int successes = 0;; ++successes) {
        fail_allocations_after(successes);
        try {
            const Result got = call();
            allocations_succeed();
            CHECK(difference(expected, got, 0) == "");
            return successes;
        } catch (const std::bad_alloc&) {  // network.cpp has seen to it that nothing was written
        }
        allocations_succeed();
        CHECK(Team(2).size() == 2);
    }
}

TEST_CASE_TEMPLATE("whichever allocation fails, nothing is written or lost", Real, float, double) {
    CellConfig lstm, gru;
    lstm.kind = CellKind::lstm;
    lstm.peephole = true;
    gru.kind = CellKind::gru;
    const auto try_all = [](Network n, const std::vector<Limits>& truncations) {
        n.fill(1);
        CAPTURE(n.describe());
        CHECK(fail_each_allocation([&] { return core_layer<Real>(n); }) > 10);
        CHECK(fail_each_allocation([&] { return core_infer<Real>(n); }) > 5);
        CHECK(fail_each_allocation([&] { return core_model<Real>(n); }) > 15);
        CHECK(fail_each_allocation([&] { return core_loss<Real>(n); }) > 10);
        CHECK(fail_each_allocation([&] { return core_predict<Real>(n); }) > 5);
        for (const Limits& limits : truncations) {
            CAPTURE(limits.describe());
            CHECK(fail_each_allocation([&] { return core_layer<Real>(n, Ask::everything, limits); }) > 10);
            CHECK(fail_each_allocation([&] { return core_model<Real>(n, Ask::everything, limits); }) > 15);
        }
    };
    Limits clipped_windows = windows(2, 5), factors;
    clipped_windows.clip = factors.clip = HiddenClip::norm;
    clipped_windows.clip_limit = factors.clip_limit = 0.5;
    Network n;
    n.outputs = 7;
    n.sizes = {60, 10, 5, 9};
    factors.factors.assign(n.rows(), 0.5);
    try_all(n, {windows(1, 4), factors});
    n = {};
    n.outputs = 3;
    n.sizes = {40, 9, 5, 3, lstm, 2, 2};
    n.tokens = n.ragged = true;
    try_all(n, {});
    n = {};
    n.sizes = {9, 3, 2, 3, gru, 2, 1};
    n.ragged = n.last_only = true;
    n.loss = Loss::squared_error;
    factors.factors.assign(n.rows(), 0.5);
    try_all(n, {clipped_windows, factors});
}

/// Bytes that a call takes beside what lives already.
template <class Call>
std::size_t bytes_of(Call call) {
    release_cached_memory();
    const std::size_t before = bytes_allocated();
    call();
    return bytes_allocated() - before;
}

/// Layers of one direction, with arrays all of ones, for calls whose results do not matter.
template <class Real>
struct Ones {
    Ones(const CellConfig& cell, std::size_t layers, std::size_t T, std::size_t B, bool ragged, bool with_tokens)
        : sizes{T, B, 2, 5, cell, layers},
          weights(std::size_t(cell.gates()) * sizes.hidden * sizes.hidden, Real(0.01)),
          gradients(2 * weights.size()),
          x(T * B * sizes.inputs, 1),
          d_output(T * B * sizes.hidden, 1),
          tokens(with_tokens ? T * B : 0, 1),
          lengths(B, std::int64_t(T)),
          parameters(layers, {weights.data(), weights.data(), nullptr, nullptr}),
          to(layers, {gradients.data(), gradients.data() + weights.size(), nullptr, nullptr}) {
        for (std::size_t b = 0; ragged && b < B; ++b) lengths[b] -= std::int64_t(b + 1);
        sizes.lengths = lengths.data();
    }
    RnnInput<Real> input() const { return {tokens.empty() ? x.data() : nullptr, tokens.empty() ? nullptr : tokens.data()}; }

    RnnSizes sizes;
    std::vector<Real> weights, gradients, x, d_output;
    std::vector<std::int64_t> tokens, lengths;
    std::vector<RnnParameters<Real>> parameters;
    std::vector<RnnParameterGradients<Real>> to;
};

TEST_CASE_TEMPLATE("the sweep of a long sequence takes little beside the tape, and inference and losses little at all", Real, float,
                   double) {
    CellConfig lstm, gru;
    lstm.kind = CellKind::lstm;
    gru.kind = CellKind::gru;
    gru.reset_after = false;
    std::size_t turn = 0;
    for (const bool ragged : {false, true})
        for (const bool tokens : {false, true})
            for (const std::size_t layers : {1, 3}) {
                const std::size_t B = tokens ? 2 : 32, T = 12800 / B;
                const CellConfig& cell = turn++ % 4 == 3 ? gru : lstm;
                CAPTURE(int(cell.kind));
                CAPTURE(ragged);
                CAPTURE(tokens);
                CAPTURE(layers);
                const Ones<Real> n(cell, layers, T, B, ragged, tokens);
                const Tape<Real> tape = forward<Real>(n.sizes, n.parameters.data(), n.input(), {}, {});
                const std::size_t swept = bytes_of([&] { backward<Real>(tape, {n.d_output.data(), {}}, nullptr, {n.to.data()}); });
                CHECK(swept > 0);
                CHECK(swept <= tape.bytes() / 10);
                const std::size_t inferred = bytes_of([&] { infer<Real>(n.sizes, n.parameters.data(), n.input(), {}, {}); });
                const std::size_t lost = bytes_of([&] {
                    loss<Real>(n.sizes, n.parameters.data(), n.input(), {}, {1, n.weights.data(), nullptr, false},
                               {Loss::squared_error, 1, nullptr, n.d_output.data()}, {});
                });
                const std::size_t of_tokens = tokens ? 32 * T * B : 0;
                CHECK(inferred <= tape.bytes() / 10 + of_tokens);
                CHECK(lost <= tape.bytes() / 10 + of_tokens + 16 * T * B);
            }
}

TEST_CASE_TEMPLATE("the tape of a ragged batch grows with its steps, not with T B", Real, float, double) {
    CellConfig lstm;
    lstm.kind = CellKind::lstm;
    const std::size_t T = 16, B = 256;
    for (const bool tokens : {false, true}) {
        const Ones<Real> all(lstm, 2, T, B, false, tokens);
        RnnSizes ragged = all.sizes, none = all.sizes;
        std::vector<std::int64_t> lengths(B, 0);
        std::size_t steps = 0;
        for (double active = B; active >= 1; active *= 0.7)  // at each step, three tenths have ended
            for (std::size_t b = 0; b < std::size_t(active); ++b, ++steps) ++lengths[b];
        REQUIRE(lengths[0] == std::int64_t(T));
        ragged.lengths = lengths.data();
        none.steps = 0;
        none.lengths = nullptr;
        const std::size_t weights = tape_bytes<Real>(none, tokens);
        const std::size_t of_all = tape_bytes<Real>(all.sizes, tokens) - weights;
        CHECK(tape_bytes<Real>(ragged, tokens) - weights <= 2 * (of_all / (T * B) * steps));
    }
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
