#include "runtime/processors.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include "runtime/platform.hpp"

namespace pybptt {
namespace {

std::vector<int> allowed() {
    std::vector<int> numbers = allowed_processors();
    const int known = int(std::thread::hardware_concurrency());
    for (int processor = 0; numbers.empty() && processor < std::max(1, known); ++processor) numbers.push_back(processor);
    return numbers;
}

std::string first_line(const std::string& path) {
    std::string line;
    std::getline(std::ifstream(path) >> std::ws, line);
    return line;
}

std::string processor_path(const std::string& root, int processor) {
    return root + "/sys/devices/system/cpu/cpu" + std::to_string(processor);
}

/// The numbers in a list like "0-3,8".
std::vector<int> read_list(const std::string& path) {
    std::vector<int> numbers;
    std::istringstream list(first_line(path));
    for (int first; list >> first; list.ignore(1, ',')) {
        int last = first;
        if (list.peek() == '-') list.ignore() >> last;
        for (int number = first; number <= last; ++number) numbers.push_back(number);
    }
    return numbers;
}

std::vector<int> siblings(const std::string& root, int processor) {
    std::vector<int> numbers = read_list(processor_path(root, processor) + "/topology/thread_siblings_list");
    return numbers.empty() ? std::vector<int>{processor} : numbers;
}

bool has_word(const std::string& list, const std::string& word) {
    return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

/// What quota / period of one control group allows; infinite if it sets no limit.
double group_quota(const std::string& group, bool unified) {
    double quota = -1, period = 0;
    if (unified)
        std::istringstream(first_line(group + "/cpu.max")) >> quota >> period;  // "max 100000" is no number
    else {
        std::istringstream(first_line(group + "/cpu.cfs_quota_us")) >> quota;
        std::istringstream(first_line(group + "/cpu.cfs_period_us")) >> period;
    }
    return quota > 0 && period > 0 ? quota / period : HUGE_VAL;
}

/// The path of this process's group in a hierarchy: the one that has the controller cpu (v1), or the unified one (v2).
std::string own_group(const std::string& root, bool unified) {
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // number:controllers:path
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (unified ? controllers.empty() : has_word(controllers, "cpu")) return line.substr(second + 1);
    }
    return "/";
}

/// The least that this process's own group and those around it allow.
double quota_of_groups(const std::string& root) {
    double least = HUGE_VAL;
    std::ifstream mounts(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
        // number parent device ROOT POINT options [tags] - TYPE source OPTIONS
        const std::size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::string skipped, mounted, point, type, options;
        std::istringstream(line) >> skipped >> skipped >> skipped >> mounted >> point;
        std::istringstream(line.substr(dash + 3)) >> type >> skipped >> options;
        const bool unified = type == "cgroup2";
        if (!unified && !(type == "cgroup" && has_word(options, "cpu"))) continue;

        std::string group = own_group(root, unified);
        if (mounted != "/") {  // a container sees a part of the tree: paths may be those of the whole one
            const bool inside = group == mounted || group.rfind(mounted + "/", 0) == 0;
            group = inside ? group.substr(mounted.size()) : "";
        }
        while (true) {
            least = std::min(least, group_quota(root + point + group, unified));
            if (group.empty()) break;
            const std::size_t slash = group.rfind('/');
            group.resize(slash == std::string::npos ? 0 : slash);
        }
    }
    return least;
}

std::size_t bytes_of(const std::string& size) {
    std::size_t number = 0;
    char unit = 0;
    std::istringstream(size) >> number >> unit;
    return number << (unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0);
}

}  // namespace

int Processors::usable() const { return std::max(1, quota > 0 ? std::min(cores, quota) : cores); }

Processors read_processors(const std::string& root, const std::vector<int>& allowed) {
    // A core is counted at the first of its hardware threads that are allowed.
    const auto is_first = [&](int processor) {
        const std::vector<int> core = siblings(root, processor);
        return std::none_of(core.begin(), core.end(), [&](int other) {
            return other < processor && std::binary_search(allowed.begin(), allowed.end(), other);
        });
    };
    const double quota = quota_of_groups(root);
    return {int(allowed.size()), int(std::count_if(allowed.begin(), allowed.end(), is_first)),
            quota < double(allowed.size()) ? int(std::ceil(quota)) : 0};
}

Caches read_caches(const std::string& root, const std::vector<int>& allowed) {
    Caches found{0, 0, 0};
    const std::size_t threads = siblings(root, allowed.front()).size();
    for (int index = 0; index < 8; ++index) {
        const std::string cache = processor_path(root, allowed.front()) + "/cache/index" + std::to_string(index);
        const std::string level = first_line(cache + "/level");
        if (level.empty() || first_line(cache + "/type") == "Instruction") continue;
        const std::size_t bytes = bytes_of(first_line(cache + "/size"));
        const std::size_t cores = std::max<std::size_t>(1, read_list(cache + "/shared_cpu_list").size() / threads);
        if (level == "1") found.l1d = bytes / cores;
        if (level == "2") found.l2 = bytes / cores;
        if (level == "3") found.l3 = bytes;
    }
    return found;
}

const Processors& processors() {
    static const Processors found = [] {
        Processors read = read_processors("", allowed());
        if (const int cores = allowed_cores(); cores > 0) read.cores = std::min(cores, read.allowed);
        return read;
    }();
    return found;
}

const Caches& caches() {
    static const Caches found = [] {
        Caches read = read_caches("", allowed());
        if (read.l2 == 0) read = system_caches();
        if (read.l2 == 0) read.l2 = std::size_t{1} << 20;
        return read;
    }();
    return found;
}

}  // namespace pybptt
