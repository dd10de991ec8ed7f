#include "c/given.hpp"

#include <algorithm>
#include <functional>

namespace pybptt::c {

const void* Arrays::note(const char* name, const void* given, std::size_t count, std::size_t value_bytes, Presence presence,
                         bool written) {
    if (given == nullptr) {
        if (presence != Presence::required) return nullptr;
        if (count != 0) refuse(std::string(name) + ": expected an array of " + std::to_string(count) + " values, got null");
        alignas(double) static const char nothing[sizeof(double)] = {};
        return nothing;
    }
    if (presence == Presence::absent) refuse(std::string(name) + ": expected null, because this network or call has no such array");
    if (reinterpret_cast<std::uintptr_t>(given) % value_bytes != 0)
        refuse(std::string(name) + ": expected an address that is a multiple of " + std::to_string(value_bytes));
    const char* const begin = static_cast<const char*>(given);
    arrays_.push_back({name, begin, begin + checked_product(count, value_bytes), written});
    return given;
}

void Arrays::expect_apart() const {
    const std::less<const char*> before;
    for (const Array& one : arrays_)
        for (const Array& other : arrays_)
            if (&one != &other && one.written && before(one.begin, other.end) && before(other.begin, one.end))
                refuse(std::string(one.name) + ": expected memory of its own, got some that " + other.name + " has as well");
}

Buffer<std::int64_t> Arrays::copy(const char* name, const std::int64_t* given, std::size_t count, Presence presence) {
    const auto* const values = read<std::int64_t>(name, given, count, presence);
    if (given == nullptr) return {};
    Buffer<std::int64_t> own(count);
    std::copy_n(values, count, own.data());
    return own;
}

}  // namespace pybptt::c
