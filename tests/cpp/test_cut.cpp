// How time and the batch are cut up: engine/cut.hpp says what must hold.
#include <numeric>

#include "engine/tape.hpp"
#include "support.hpp"

namespace pybptt::test {
namespace {

using Lengths = std::vector<std::int64_t>;

/// Lengths of all kinds for a batch, up to T.
std::vector<Lengths> kinds_of_lengths(std::size_t T, std::size_t B, Random& random) {
    std::vector<Lengths> all = {{}};  // none: all T
    const auto add = [&](auto length_of) {
        Lengths lengths;
        for (std::size_t b = 0; b < B; ++b) lengths.push_back(std::int64_t(length_of(b)));
        all.push_back(lengths);
    };
    add([&](std::size_t) { return T; });
    add([&](std::size_t) { return T / 2; });
    add([](std::size_t) { return 0; });
    add([&](std::size_t) { return random.below(T + 1); });
    add([&](std::size_t) { return T - random.below(T + 1) / 4; });
    add([&](std::size_t b) { return b % 3 == 1 ? 0 : random.below(T + 1); });
    add([&](std::size_t b) { return b == B / 2 ? T : std::min<std::size_t>(1, T); });
    add([&](std::size_t b) { return (b * T + B - 1) / B; });
    add([&](std::size_t b) { return T - (b * T + B - 1) / B; });
    return all;
}

/// The lengths that `lengths` stands for.
Lengths in_full(const Lengths& lengths, std::size_t T, std::size_t B) {
    return lengths.empty() ? Lengths(B, std::int64_t(T)) : lengths;
}

RnnSizes sizes_of(std::size_t T, std::size_t B, const Lengths& lengths) {
    RnnSizes sizes{T, B, 3, 5};
    if (!lengths.empty()) sizes.lengths = lengths.data();
    return sizes;
}

void check_positions(const Cut& cut, const Lengths& lengths, std::size_t T) {
    const std::size_t B = lengths.size();
    std::vector<int> seen(B);
    for (std::size_t position = 0; position < B; ++position) {
        REQUIRE(cut.sample(position) < B);
        ++seen[cut.sample(position)];
        REQUIRE(cut.length(position) == std::size_t(lengths[cut.sample(position)]));
    }
    REQUIRE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    REQUIRE(cut.first_position(0) == 0);
    REQUIRE(cut.first_position(cut.slices()) == B);
    for (std::size_t i = 0; i < cut.slices(); ++i)
        for (std::size_t p = cut.first_position(i) + 1; p < cut.first_position(i + 1); ++p)
            REQUIRE(cut.length(p - 1) >= cut.length(p));
    for (std::size_t step = 0; step <= T; ++step) {
        std::size_t sum = 0, least = B, most = 0;
        for (std::size_t i = 0; i < cut.slices(); ++i) {
            sum += cut.active(i, step);
            least = std::min(least, cut.active(i, step));
            most = std::max(most, cut.active(i, step));
        }
        REQUIRE(sum == std::size_t(std::count_if(lengths.begin(), lengths.end(), [&](auto n) { return std::size_t(n) > step; })));
        REQUIRE(most - least <= 1);  // the slices shrink together
    }
    for (std::size_t i = 0; i < cut.slices(); ++i)
        for (std::size_t first = cut.first_position(i), p = first; p < cut.first_position(i + 1); ++p)
            REQUIRE(cut.samples(first)[p - first] == cut.sample(p));
}

void check_chunks(const Cut& cut, const Lengths& lengths, std::size_t chunk_rows) {
    const std::size_t B = lengths.size();
    const auto active = [&](std::size_t step) {
        return std::size_t(std::count_if(lengths.begin(), lengths.end(), [&](auto n) { return std::size_t(n) > step; }));
    };
    const std::size_t longest = B == 0 ? 0 : std::size_t(*std::max_element(lengths.begin(), lengths.end()));
    std::size_t step = 0, row = 0, most_rows = 0, most_state_rows = 0, most_steps = 0;
    for (std::size_t i = 0; i < cut.chunks(); ++i) {
        const Chunk chunk = cut.chunk(i);
        const std::size_t n = active(step);
        REQUIRE(chunk.index == i);
        REQUIRE(chunk.first_step == step);
        REQUIRE(chunk.first_row == row);
        REQUIRE(chunk.steps >= 1);
        REQUIRE(chunk.rows == chunk.steps * n);
        REQUIRE(chunk.rows <= std::max(chunk_rows, n));
        // It ends when more than a quarter of its samples has, and not before unless it is full.
        REQUIRE(4 * active(step + chunk.steps - 1) >= 3 * n);
        const bool full = (chunk.steps + 1) * n > chunk_rows, at_end = step + chunk.steps == longest;
        REQUIRE((full || at_end || 4 * active(step + chunk.steps) < 3 * n));
        std::size_t begin = 0;
        for (std::size_t k = 0; k < cut.slices(); ++k) {
            const Slice slice = cut.slice(chunk, k);
            REQUIRE(slice.index == k);
            REQUIRE(slice.first == cut.first_position(k));
            REQUIRE(slice.begin == begin);
            REQUIRE(slice.size == cut.active(k, step));
            begin += slice.size;
        }
        REQUIRE(begin == n);
        step += chunk.steps;
        row += chunk.rows;
        most_rows = std::max(most_rows, chunk.rows);
        most_steps = std::max(most_steps, chunk.steps);
        most_state_rows = std::max(most_state_rows, chunk.rows + n);
    }
    REQUIRE(step == longest);
    REQUIRE(cut.rows() == row);
    REQUIRE(cut.most_rows() >= most_rows);
    REQUIRE(cut.most_state_rows() >= most_state_rows);
    REQUIRE(cut.most_steps() >= most_steps);
    if (cut.chunks() == 0) return;
    REQUIRE(cut.most_rows() == most_rows);
    REQUIRE(cut.most_steps() == most_steps);
}

/// Every active (t, b) has one row of one chunk, where the equation of cut.hpp puts it; in pieces of `piece` rows.
void check_rows(const Cut& cut, const Lengths& lengths, std::size_t T, bool reverse, std::size_t piece) {
    const std::size_t B = lengths.size();
    std::vector<int> seen(T * B);
    for (std::size_t i = 0; i < cut.chunks(); ++i) {
        const Chunk chunk = cut.chunk(i);
        std::vector<int> taken(chunk.rows);
        std::vector<std::size_t> user_row(chunk.rows);
        for (std::size_t first = 0; first < chunk.rows; first += piece) {
            const std::size_t rows = std::min(piece, chunk.rows - first);
            cut.for_each_rows(chunk, first, rows, chunk.first_step,
                              [&](std::size_t row, std::size_t count, const Rows& user, const Slice& slice) {
                                  REQUIRE(row >= first);
                                  REQUIRE(row + count <= first + rows);
                                  REQUIRE(row >= chunk.steps * slice.begin);
                                  REQUIRE(row + count <= chunk.steps * (slice.begin + slice.size));
                                  for (std::size_t j = 0; j < count; ++j) {
                                      ++taken[row + j];
                                      user_row[row + j] = user[j];
                                  }
                              });
        }
        for (std::size_t k = 0; k < cut.slices(); ++k) {
            const Slice slice = cut.slice(chunk, k);
            for (std::size_t s = 0; s < chunk.steps; ++s)
                for (std::size_t j = 0; j < slice.size; ++j) {
                    const std::size_t row = chunk.steps * slice.begin + s * slice.size + j, position = slice.first + j;
                    const std::size_t step = chunk.first_step + s, length = cut.length(position), b = cut.sample(position);
                    REQUIRE(taken[row] == (step < length ? 1 : 0));
                    if (step >= length) continue;
                    const std::size_t t = reverse ? length - 1 - step : step;
                    REQUIRE(user_row[row] == t * B + b);
                    REQUIRE(cut.user_rows(step, position)[0] == t * B + b);
                    ++seen[t * B + b];
                }
        }
    }
    for (std::size_t t = 0; t < T; ++t)
        for (std::size_t b = 0; b < B; ++b) REQUIRE(seen[t * B + b] == (t < std::size_t(lengths[b]) ? 1 : 0));
}

void check_apart_rows(const Cut& cut, std::size_t B) {
    for (std::size_t i = 0; i < cut.slices(); ++i) {
        const std::size_t first = cut.first_position(i), end = cut.first_position(i + 1);
        if (first == end) continue;
        REQUIRE(cut.apart_row(i, end - 1) < cut.apart_rows());
        REQUIRE(cut.apart_row(i, end - 1) - cut.apart_row(i, first) == end - 1 - first);
        if (i + 1 < cut.slices() && end < B) REQUIRE(cut.apart_row(i + 1, end) - cut.apart_row(i, end - 1) > Cut::kApart);
    }
}

void check_all(const Cut& cut, const Lengths& lengths, std::size_t T, bool reverse, std::size_t chunk_rows) {
    check_positions(cut, lengths, T);
    check_chunks(cut, lengths, chunk_rows);
    for (const std::size_t piece : {std::size_t(1), std::size_t(7), std::size_t(1000)}) check_rows(cut, lengths, T, reverse, piece);
    check_apart_rows(cut, lengths.size());
}

TEST_SUITE_BEGIN("cut");

TEST_CASE("every step of every sequence has its one place, however a batch is cut") {
    Random random(51);
    for (const std::size_t T : {0, 1, 5, 37})
        for (const std::size_t B : {0, 1, 3, 7, 8, 20, 130})
            for (Lengths& lengths : kinds_of_lengths(T, B, random))
                for (const std::size_t slices : {1, 2, 5, 16}) {
                    if (slices > std::max<std::size_t>(1, B)) continue;
                    const std::size_t turn = random.below(6), chunk_rows = std::size_t(turn < 2 ? 1 : turn < 4 ? 40 : 256);
                    const bool reverse = turn % 2 == 1;
                    CAPTURE(T);
                    CAPTURE(B);
                    CAPTURE(slices);
                    CAPTURE(chunk_rows);
                    CAPTURE(reverse);
                    const Lengths full = in_full(lengths, T, B);
                    Lengths given = lengths;
                    const Cut cut(sizes_of(T, B, given), reverse, chunk_rows, slices);
                    std::fill(given.begin(), given.end(), -1);  // the caller's: not read again
                    REQUIRE(cut.slices() == slices);
                    check_all(cut, full, T, reverse, chunk_rows);
                }
}

TEST_CASE_TEMPLATE("a recurrence's cut has few slices, one of a small batch, and depends on the sizes alone", Real, float, double) {
    Random random(52);
    for (const CellKind kind : {CellKind::elman, CellKind::lstm})
        for (const std::size_t B : {1, 7, 8, 33, 129, 600})
            for (const std::size_t H : {5, 300}) {
                CAPTURE(B);
                CAPTURE(H);
                Lengths lengths;
                for (std::size_t b = 0; b < B; ++b) lengths.push_back(std::int64_t(random.below(21)));
                lengths[B / 2] = 20;
                RnnSizes sizes = sizes_of(20, B, lengths);
                sizes.hidden = H;
                sizes.cell.kind = kind;
                sizes.directions = 2;
                const typename Tape<Real>::Contents tape(sizes, {}, false), again(sizes, {}, false);
                for (const std::size_t direction : {0, 1}) {
                    const Cut& cut = tape.recurrences[direction]->cut;
                    CHECK(cut.slices() <= Cut::kMostSlices);
                    CHECK((B < 8 ? cut.slices() == 1 : cut.slices() >= 2));
                    check_positions(cut, lengths, 20);
                    check_rows(cut, lengths, 20, direction == 1, 100);
                    check_apart_rows(cut, B);
                    REQUIRE(again.recurrences[direction]->cut.chunks() == cut.chunks());
                    for (std::size_t i = 0; i < cut.chunks(); ++i)
                        CHECK(again.recurrences[direction]->cut.chunk(i).steps == cut.chunk(i).steps);
                }
            }
}

TEST_CASE("sequences that all have T steps are cut as if nobody had said so, and one run a step") {
    for (const std::size_t B : {1, 8, 130}) {
        const Lengths lengths(B, 20);
        const Cut with(sizes_of(20, B, lengths), false, 100, 1), without(sizes_of(20, B, {}), false, 100, 1);
        CHECK_FALSE(with.ragged());
        CHECK(with.chunks() == without.chunks());
        std::size_t runs = 0;
        for (std::size_t i = 0; i < with.chunks(); ++i)
            with.for_each_rows(with.chunk(i), 0, with.chunk(i).rows, with.chunk(i).first_step,
                               [&](std::size_t, std::size_t count, const Rows&, const Slice&) {
                                   CHECK(count == B);
                                   ++runs;
                               });
        CHECK(runs == 20);
    }
}

TEST_CASE_TEMPLATE("a tape's chunks lie one behind the other, each as large as its rows", Real, float, double) {
    Random random(53);
    for (const std::size_t T : {1, 5, 37, 300})
        for (const std::size_t B : {2, 7, 20})
            for (const Lengths& lengths : kinds_of_lengths(T, B, random))
                for (const std::size_t chunk_rows : {1, 10, 256}) {
                    const Cut cut(sizes_of(T, B, lengths), false, chunk_rows, 2);
                    for (const bool of_state : {false, true})
                        for (const std::size_t cols : {1, 20}) {
                            CAPTURE(T);
                            CAPTURE(B);
                            CAPTURE(chunk_rows);
                            const ChunkBuffer<Real> buffer(cut, of_state, cols, MemoryPlan::kEveryChunk);
                            std::size_t end = 0;
                            for (std::size_t i = 0; i < cut.chunks(); ++i) {
                                const Chunk chunk = cut.chunk(i);
                                const std::size_t rows = chunk.rows + (of_state ? chunk.rows / chunk.steps : 0);
                                const std::size_t most = of_state ? cut.most_state_rows() : cut.most_rows();
                                const std::size_t room = cut.ragged() ? rows : most;
                                REQUIRE(buffer(chunk).data == buffer(cut.chunk(0)).data + end);
                                REQUIRE(buffer(chunk).panel_stride == PanelBuffer<Real>::stride(room));
                                end += PanelBuffer<Real>::size_of(room, cols);
                            }
                            REQUIRE(buffer.size() == end);
                        }
                }
}

TEST_CASE_TEMPLATE("the tape of a ragged batch is planned without going through its chunks", Real, float, double) {
    const std::size_t T = std::size_t{1} << 40;
    const Lengths lengths = {0, std::int64_t(T)};
    // As one sequence, but for a row of the state that is carried along.
    const std::size_t ragged = tape_bytes<Real>(sizes_of(T, 2, lengths), false);
    const std::size_t alone = tape_bytes<Real>(sizes_of(T, 1, {}), false);
    CHECK(ragged >= alone);
    CHECK(ragged - alone < 1000);
    const Lengths many = {std::int64_t(T), 7, std::int64_t(T / 2), std::int64_t(T - 1), 0};
    CHECK(plan_memory<Real>(sizes_of(T, 5, many), false, true, 1 << 30).limited());
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
