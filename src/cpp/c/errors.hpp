// What leaves the C interface: a status, and a message for this thread. No exception does.
#pragma once

#include <new>
#include <stdexcept>
#include <string>

#include "pybptt.h"

namespace pybptt::c {

/// The progress function has ended the call.
struct Stopped {};

void remember(const char* message) noexcept;

[[noreturn]] inline void refuse(const std::string& message) { throw std::invalid_argument(message); }

template <class Work>
pybptt_status guarded(Work work) noexcept {
    const auto failed = [](pybptt_status status, const char* message) {
        remember(message);
        return status;
    };
    try {
        work();
        return PYBPTT_OK;
    } catch (const Stopped&) {
        return failed(PYBPTT_STOPPED, "progress: the function has ended the call");
    } catch (const std::bad_alloc&) {
        return failed(PYBPTT_OUT_OF_MEMORY, "the memory that this call needs cannot be allocated");
    } catch (const std::out_of_range& error) {
        return failed(PYBPTT_OUT_OF_RANGE, error.what());
    } catch (const std::logic_error& error) {
        return failed(PYBPTT_INVALID_ARGUMENT, error.what());
    } catch (const std::exception& error) {
        return failed(PYBPTT_FAILED, error.what());
    } catch (...) {  // of a progress function in C++
        return failed(PYBPTT_FAILED, "an exception that is no std::exception");
    }
}

}  // namespace pybptt::c
