// By bisection: what holds for small numbers and, once it does not, no more.
#pragma once

#include <cstddef>

namespace pybptt {

/// The last of [first, end) for which it holds, which it does for `first`.
template <class Holds>
std::size_t last_for_which(std::size_t first, std::size_t end, Holds holds) {
    while (first + 1 < end) {
        const std::size_t middle = first + (end - first) / 2;
        (holds(middle) ? first : end) = middle;
    }
    return first;
}

}  // namespace pybptt
