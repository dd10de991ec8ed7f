// Integers that the core takes for indices and sizes. Whoever calls it makes a copy that no other thread writes to, checks the copy
// here, and gives that to the core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace pybptt {

/// std::invalid_argument unless each of the (B,) is in [0, steps].
inline void check_lengths(const std::int64_t* lengths, std::size_t steps, std::size_t batch) {
    for (std::size_t b = 0; b < batch; ++b)
        if (std::uint64_t(lengths[b]) > steps)
            throw std::invalid_argument("lengths: expected values in [0, " + std::to_string(steps) + "], got " +
                                        std::to_string(lengths[b]) + " at [" + std::to_string(b) + "]");
}

constexpr std::size_t kNoSteps = std::size_t(-1);

/// std::out_of_range unless each of the (T, B), or (B,) without steps, is in [0, limit); the place of the first one that is not is
/// in the message. With lengths, those past a sequence's end may be anything.
inline void check_ids(const char* name, const std::int64_t* ids, std::size_t steps, std::size_t batch, std::size_t limit,
                      const std::int64_t* lengths) {
    const std::size_t size = steps == kNoSteps ? batch : steps * batch;
    for (std::size_t i = 0; i < size; ++i) {
        if (std::uint64_t(ids[i]) < limit) continue;
        const std::size_t t = i / batch, b = i % batch;
        if (lengths != nullptr && t >= std::size_t(lengths[b])) continue;
        throw std::out_of_range(std::string(name) + ": expected ids in [0, " + std::to_string(limit) + "), got " +
                                std::to_string(ids[i]) + " at [" + (steps == kNoSteps ? "" : std::to_string(t) + ", ") +
                                std::to_string(b) + "]");
    }
}

}  // namespace pybptt
