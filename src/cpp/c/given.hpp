// What a caller gives: structs of some version, and arrays of which there are only the addresses.
#pragma once

#include <cstring>
#include <vector>

#include "c/errors.hpp"
#include "runtime/memory.hpp"

namespace pybptt::c {

template <class Pointer>
void expect_given(const char* name, Pointer given) {
    if (given == nullptr) refuse(std::string(name) + ": expected a pointer, got null");
}

/// The bytes of a struct of the caller's that this version knows. A larger one is a later version's: its other fields must be
/// unused.
template <class Struct>
std::size_t known_size(const char* name, const Struct* given) {
    expect_given(name, given);
    std::size_t size;
    std::memcpy(&size, given, sizeof size);
    // When a struct has grown, the sizes that it used to have are to be taken, too.
    if (size < sizeof(Struct))
        refuse(std::string(name) + ".size: expected " + std::to_string(sizeof(Struct)) + ", the size of the struct, got " +
               std::to_string(size));
    const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
    for (std::size_t i = sizeof(Struct); i < size; ++i)
        if (bytes[i] != 0)
            refuse(std::string(name) + ": expected fields that version " PYBPTT_VERSION " knows, got one set beyond them");
    return sizeof(Struct);
}

/// A copy, which no other thread writes to.
template <class Struct>
Struct read_struct(const char* name, const Struct* given) {
    Struct own{};
    std::memcpy(&own, given, known_size(name, given));
    return own;
}
/// All fields 0 if it is null.
template <class Struct>
Struct read_optional(const char* name, const Struct* given) {
    return given == nullptr ? Struct{} : read_struct(name, given);
}

inline bool read_flag(const char* name, std::int32_t given) {
    if (given != 0 && given != 1) refuse(std::string(name) + ": expected 0 or 1, got " + std::to_string(given));
    return given == 1;
}
/// One of 0 .. count - 1.
inline int read_choice(const char* name, std::int32_t given, int count) {
    if (given < 0 || given >= count)
        refuse(std::string(name) + ": expected one of 0 to " + std::to_string(count - 1) + ", got " + std::to_string(given));
    return given;
}

enum class Presence { required, optional, absent };

/// The arrays of one call. None may be of another type's alignment, or overlap one that is written.
class Arrays {
public:
    template <class Value>
    const Value* read(const char* name, const void* given, std::size_t count, Presence presence) {
        return static_cast<const Value*>(note(name, given, count, sizeof(Value), presence, false));
    }
    template <class Value>
    Value* write(const char* name, void* given, std::size_t count, Presence presence) {
        return static_cast<Value*>(const_cast<void*>(note(name, given, count, sizeof(Value), presence, true)));
    }
    /// A copy of integers, for checks: what is checked is what is used. Empty for null.
    Buffer<std::int64_t> copy(const char* name, const std::int64_t* given, std::size_t count, Presence presence);
    /// After all of them.
    void expect_apart() const;

private:
    struct Array {
        const char* name;
        const char *begin, *end;
        bool written;
    };
    const void* note(const char* name, const void* given, std::size_t count, std::size_t value_bytes, Presence presence,
                     bool written);

    std::vector<Array> arrays_;
};

}  // namespace pybptt::c
