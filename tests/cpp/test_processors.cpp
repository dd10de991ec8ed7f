// Processors, control groups and caches, as made-up /proc and /sys describe them.
#include <filesystem>
#include <fstream>

#include "runtime/processors.hpp"
#include "support.hpp"

namespace pybptt::test {
namespace {

/// A directory with a /proc and a /sys of its own; `processors` of them, `threads` to a core, numbered core after core or thread
/// after thread.
class Machine {
public:
    Machine() : root_((std::filesystem::temp_directory_path() / ("pybptt-" + std::to_string(std::random_device()()))).string()) {
        REQUIRE(std::filesystem::create_directory(root_));
    }
    ~Machine() { std::filesystem::remove_all(root_); }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    const std::string& root() const { return root_; }
    void write(const std::string& path, const std::string& text) const {
        const std::filesystem::path file = root_ + path;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << text << "\n";
    }
    void core(const std::vector<int>& numbers, const std::string& list) const {
        for (const int number : numbers)
            write("/sys/devices/system/cpu/cpu" + std::to_string(number) + "/topology/thread_siblings_list", list);
    }
    void cache(int index, const std::string& level, const std::string& type, const std::string& size,
               const std::string& shared) const {
        const std::string path = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index);
        write(path + "/level", level);
        write(path + "/type", type);
        write(path + "/size", size);
        write(path + "/shared_cpu_list", shared);
    }

private:
    const std::string root_;
};

const std::vector<int> kEight = {0, 1, 2, 3, 4, 5, 6, 7};

std::vector<int> counts(const Machine& machine, const std::vector<int>& allowed = kEight) {
    const Processors p = read_processors(machine.root(), allowed);
    return {p.allowed, p.cores, p.quota, p.usable()};
}

const char* const kUnified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
const char* const kFirstVersion =
    "25 24 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "26 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct";

}  // namespace

TEST_SUITE_BEGIN("threads");

TEST_CASE("nothing known: every processor counts") {
    const Machine machine;
    CHECK(counts(machine) == std::vector{8, 8, 0, 8});
    CHECK(counts(machine, {5}) == std::vector{1, 1, 0, 1});
}

TEST_CASE("hardware threads of one core count once, if they are allowed") {
    Machine machine;
    for (int core = 0; core < 4; ++core) machine.core({core, core + 4}, std::to_string(core) + "," + std::to_string(core + 4));
    CHECK(counts(machine) == std::vector{8, 4, 0, 4});
    CHECK(counts(machine, {0, 1, 4}) == std::vector{3, 2, 0, 2});
    CHECK(counts(machine, {4, 5, 6, 7}) == std::vector{4, 4, 0, 4});
    for (int core = 0; core < 4; ++core)
        machine.core({2 * core, 2 * core + 1}, std::to_string(2 * core) + "-" + std::to_string(2 * core + 1));
    CHECK(counts(machine) == std::vector{8, 4, 0, 4});
    CHECK(counts(machine, {1, 2, 3}) == std::vector{3, 2, 0, 2});
    for (int core = 4; core < 8; ++core)
        machine.core({core}, std::to_string(core));  // a hybrid processor: two large cores, four small
    CHECK(counts(machine) == std::vector{8, 6, 0, 6});
}

TEST_CASE("quotas of control groups, version 2") {
    Machine machine;
    machine.write("/proc/self/mountinfo", kUnified);
    machine.write("/proc/self/cgroup", "0::/user.slice/job.scope");
    const std::string group = "/sys/fs/cgroup/user.slice/job.scope";
    machine.write(group + "/cpu.max", "max 100000");
    CHECK(counts(machine) == std::vector{8, 8, 0, 8});
    machine.write(group + "/cpu.max", "300000 100000");
    CHECK(counts(machine) == std::vector{8, 8, 3, 3});
    machine.write(group + "/cpu.max", "250000 100000");
    CHECK(counts(machine) == std::vector{8, 8, 3, 3});
    machine.write(group + "/cpu.max", "1000 100000");
    CHECK(counts(machine) == std::vector{8, 8, 1, 1});
    machine.write(group + "/cpu.max", "1600000 100000");  // more than there are
    CHECK(counts(machine) == std::vector{8, 8, 0, 8});
    machine.write("/sys/fs/cgroup/user.slice/cpu.max", "200000 100000");  // an ancestor's is the least
    CHECK(counts(machine) == std::vector{8, 8, 2, 2});
    machine.write("/sys/fs/cgroup/cpu.max", "100000 100000");  // a container sees its own group as the root
    CHECK(counts(machine) == std::vector{8, 8, 1, 1});
    for (const char* other : {"nonsense", "", "-1 100000", "0 0", "100000"}) {
        machine.write("/sys/fs/cgroup/cpu.max", other);
        CHECK(counts(machine) == std::vector{8, 8, 2, 2});
    }
}

TEST_CASE("quotas of control groups, version 1") {
    Machine machine;
    machine.write("/proc/self/mountinfo", kFirstVersion);
    machine.write("/proc/self/cgroup", "6:cpuset:/other\n5:memory:/other\n4:cpu,cpuacct:/batch/job\n0::/other");
    const std::string group = "/sys/fs/cgroup/cpu,cpuacct/batch/job";
    machine.write(group + "/cpu.cfs_quota_us", "-1");
    machine.write(group + "/cpu.cfs_period_us", "100000");
    machine.write("/sys/fs/cgroup/cpu,cpuacct/other/cpu.cfs_quota_us", "100000");
    machine.write("/sys/fs/cgroup/cpu,cpuacct/other/cpu.cfs_period_us", "100000");
    CHECK(counts(machine) == std::vector{8, 8, 0, 8});
    machine.write(group + "/cpu.cfs_quota_us", "150000");
    CHECK(counts(machine) == std::vector{8, 8, 2, 2});
    machine.write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "50000");
    machine.write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "50000");
    CHECK(counts(machine) == std::vector{8, 8, 1, 1});
}

TEST_CASE("a container that sees only its part of the control groups") {
    Machine machine;
    machine.write("/proc/self/mountinfo", "26 24 0:23 /docker/abc /sys/fs/cgroup/cpu ro master:9 - cgroup cgroup rw,cpu");
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000");
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
    machine.write("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "200000");
    machine.write("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000");
    for (const char* path : {"/docker/abc", "/docker/abcdef", "/docker", "/", "", "nonsense"}) {
        machine.write("/proc/self/cgroup", std::string("4:cpu:") + path);
        CHECK(counts(machine) == std::vector{8, 8, 4, 4});
    }
    machine.write("/proc/self/cgroup", "4:cpu:/docker/abc/inner");
    CHECK(counts(machine) == std::vector{8, 8, 2, 2});
}

TEST_CASE("the least of cores and quota is used") {
    Machine machine;
    for (int core = 0; core < 4; ++core) machine.core({core, core + 4}, std::to_string(core) + "," + std::to_string(core + 4));
    machine.write("/proc/self/mountinfo", kUnified);
    machine.write("/proc/self/cgroup", "0::/");
    machine.write("/sys/fs/cgroup/cpu.max", "600000 100000");
    CHECK(counts(machine) == std::vector{8, 4, 6, 4});
    machine.write("/sys/fs/cgroup/cpu.max", "200000 100000");
    CHECK(counts(machine) == std::vector{8, 4, 2, 2});
}

TEST_CASE("caches") {
    Machine machine;
    const auto sizes = [&] {
        const Caches c = read_caches(machine.root(), kEight);
        return std::vector{c.l1d, c.l2, c.l3};
    };
    CHECK(sizes() == std::vector<std::size_t>{0, 0, 0});
    machine.core({0}, "0,4");
    machine.cache(0, "1", "Data", "48K", "0,4");
    machine.cache(1, "1", "Instruction", "32K", "0,4");
    machine.cache(2, "2", "Unified", "1280K", "0,4");
    machine.cache(3, "3", "Unified", "36M", "0-7");
    CHECK(sizes() == std::vector<std::size_t>{48 << 10, 1280 << 10, 36 << 20});
    machine.core({0}, "0");
    machine.cache(0, "1", "Data", "32K", "0");
    machine.cache(2, "2", "Unified", "2048K", "0-3");  // four cores share it
    CHECK(sizes() == std::vector<std::size_t>{32 << 10, 512 << 10, 36 << 20});
}

TEST_CASE("this machine") {
    CHECK(processors().allowed >= processors().cores);
    CHECK(processors().usable() >= 1);
    CHECK(&caches() == &caches());
    CHECK((caches().l2 == 0 || caches().l2 > caches().l1d));
}

TEST_SUITE_END();

}  // namespace pybptt::test
