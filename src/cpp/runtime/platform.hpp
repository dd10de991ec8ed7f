// What differs between Linux, macOS and Windows. The rest of the core knows no operating system.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "runtime/processors.hpp"
#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

namespace pybptt {

/// Large pages for a block that begins and ends at their boundaries, where the system can be asked for them; a refusal does no
/// harm.
void use_huge_pages(void* block, std::size_t bytes) noexcept;
/// What malloc keeps of the memory that it was given back goes to the system.
void trim_malloc() noexcept;

/// Sleeps while `word` is `value`, until it is woken or for no reason. It must be safe to destroy `word` in a child of fork(),
/// whoever slept there.
void sleep_while(std::atomic<unsigned>& word, unsigned value) noexcept;
void wake_all(std::atomic<unsigned>& word) noexcept;
[[noreturn]] void sleep_forever() noexcept;

/// Before a fork(), and after it in the parent and in the child.
void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)());
/// Whether this process began there and not with a program of its own, as far as the system says.
bool began_as_child_of_fork();
int process_id();

/// Whatever is global in the process; a library, if the process has it, else null ("x" is libx.so, libx.dylib or x.dll).
void* all_libraries();
void* loaded_library(const char* name);
/// A function there; null if there is none.
void* symbol(void* library, const char* name);

/// The numbers of the processors that this thread may run on, in ascending order; none if the system does not say.
std::vector<int> allowed_processors();
/// Cores worth having among them; 0 if read_processors knows better.
int allowed_cores();
/// Where read_caches finds nothing.
Caches system_caches();

/// Processor time that the process's other threads have had so far; 0 where the system does not say which of them are running.
double seconds_of_others();
/// How many of them are running, 0 if there are too many to look at; takes some 40 microseconds to see.
int others_running();

/// What unwinds the stack of a thread that ends itself (glibc's pthread_exit).
#ifdef __GLIBCXX__
using ThreadExit = abi::__forced_unwind;
#else
struct ThreadExit {};  // nothing does
#endif

}  // namespace pybptt
