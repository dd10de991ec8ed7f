// The core's work between Python's arrays: without the GIL, and heard on the way.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <utility>

#include "pybptt/rnn.hpp"
#include "runtime/float_mode.hpp"
#include "runtime/platform.hpp"

namespace pybptt {

namespace py = pybind11;

/// Takes the GIL again. If the interpreter has come to its end meanwhile, this thread (a daemon) waits here for the process to end,
/// as Python 3.14 does: older ones end the thread by unwinding its stack, which must not pass through C++.
inline void take_gil(PyThreadState* thread) {
    try {
        PyEval_RestoreThread(thread);
    } catch (ThreadExit&) {
        sleep_forever();
    }
}

/// work() without the GIL.
template <class Work>
auto without_gil(Work work) {
    PyThreadState* const thread = PyEval_SaveThread();
    try {
        auto result = work();
        take_gil(thread);
        return result;
    } catch (const std::exception&) {
        take_gil(thread);
        throw;
    }
}

/// Hears how far a call has come while the GIL is released, and tells Python a few times a second: a callback, or only whoever has
/// pressed Ctrl-C. What is raised there ends the call, and is raised from it.
class Listener {
public:
    /// `callback` may be None.
    explicit Listener(py::object callback) : callback_(std::move(callback)) {}

    Report report() {
        return [this](std::size_t done, std::size_t total) { return hear(done, total); };
    }
    /// With the GIL, after the call.
    void rethrow() {
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

private:
    bool hear(std::size_t done, std::size_t total) {
        constexpr std::chrono::milliseconds kPause(50);
        const auto now = std::chrono::steady_clock::now();
        if (done != total && now < next_) return true;
        const FloatMode in_core = FloatMode::now();
        callers_.set();
        take_gil(thread_);
        try {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!callback_.is_none()) callback_(done, total);
        } catch (ThreadExit&) {  // as in take_gil
            sleep_forever();
        } catch (...) {
            thrown_ = std::current_exception();
        }
        PyEval_SaveThread();
        in_core.set();
        next_ = std::chrono::steady_clock::now() + kPause;
        return !thrown_;
    }

    py::object callback_;
    PyThreadState* const thread_ = PyThreadState_Get();
    const FloatMode callers_ = FloatMode::now();
    std::chrono::steady_clock::time_point next_{};
    std::exception_ptr thrown_;
};

/// Of a call from Python: it is heard if it has a callback or a limit on memory, which is a long call's.
template <class Call>
auto heard(const py::object& progress, const MemoryPlan& plan, Call call) {
    if (progress.is_none() && !plan.under_limit()) return without_gil([&] { return call(Report{}); });
    Listener listener(progress);
    auto result = without_gil([&] { return call(listener.report()); });
    listener.rethrow();
    return result;
}

}  // namespace pybptt
