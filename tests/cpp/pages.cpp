// Pages with one behind them that nobody may touch. Sanitizers see to that themselves, and are slow to map pages.
#include "support.hpp"
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace pybptt::test {

#if defined(_WIN32)

std::size_t page_bytes() { return 4096; }

void* map_fenced(std::size_t bytes) {
    void* memory = VirtualAlloc(nullptr, bytes + page_bytes(), MEM_RESERVE, PAGE_NOACCESS);
    if (memory == nullptr || VirtualAlloc(memory, bytes, MEM_COMMIT, PAGE_READWRITE) == nullptr) throw std::bad_alloc();
    return memory;
}
void unmap_fenced(void* memory, std::size_t) { VirtualFree(memory, 0, MEM_RELEASE); }

#else

std::size_t page_bytes() { return kSanitized ? kPanelBytes : std::size_t(sysconf(_SC_PAGESIZE)); }

void* map_fenced(std::size_t bytes) {
    const std::size_t hole = kSanitized ? 0 : page_bytes();
    void* memory = kSanitized ? std::aligned_alloc(page_bytes(), bytes)
                              : mmap(nullptr, bytes + hole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == nullptr || memory == MAP_FAILED) throw std::bad_alloc();
    if (!kSanitized) mprotect(static_cast<char*>(memory) + bytes, hole, PROT_NONE);
    return memory;
}
void unmap_fenced(void* memory, std::size_t bytes) {
    if (kSanitized)
        std::free(memory);
    else
        munmap(memory, bytes + page_bytes());
}

#endif

}  // namespace pybptt::test
