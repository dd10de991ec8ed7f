// Another thread may write to ids while they are checked: a call then works or refuses, and reads nothing outside its arrays. In
// C++, because C99 has no threads.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "pybptt.h"

extern "C" {
extern int failures;
void test_other_threads(void);
}

#ifdef __SANITIZE_THREAD__
void test_other_threads(void) {}  // it would report what is meant
#else
void test_other_threads(void) {
    constexpr std::size_t kSteps = 500, kInputs = 10;
    pybptt_config config{};
    config.size = sizeof config;
    config.input_size = config.output_size = kInputs;
    config.hidden_size = 4;
    config.num_layers = 1;
    pybptt_network* network = nullptr;
    if (pybptt_network_create(&config, &network) != PYBPTT_OK) ++failures;
    const std::size_t count = pybptt_network_parameter_count(network);
    std::vector<float> parameters(count, 0.1f), gradient(count);
    std::vector<std::int64_t> ids(kSteps), lengths(1, kSteps);

    pybptt_input input{};
    input.size = sizeof input;
    input.steps = kSteps;
    input.batch = 1;
    input.parameters = parameters.data();
    input.tokens = ids.data();
    input.lengths = lengths.data();
    pybptt_targets targets{};
    targets.size = sizeof targets;
    targets.classes = ids.data();
    pybptt_gradients gradients{};
    gradients.size = sizeof gradients;
    gradients.parameters = gradient.data();
    input.parameter_count = gradients.parameter_count = count;

    std::atomic<bool> done{false};
    std::thread writer([&] {
        volatile std::int64_t* const id = &ids[kSteps - 1];
        volatile std::int64_t* const length = lengths.data();
        while (!done) {
            *id = std::int64_t{1} << 40;
            *length = std::int64_t{1} << 40;
            *id = 1;
            *length = std::int64_t(kSteps);
        }
    });
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
    while (std::chrono::steady_clock::now() < end) {
        double loss = 0;
        const pybptt_status status = pybptt_loss_and_grad(network, &input, &targets, nullptr, nullptr, nullptr, &gradients, &loss);
        if (status != PYBPTT_OK && status != PYBPTT_OUT_OF_RANGE && status != PYBPTT_INVALID_ARGUMENT) ++failures;
    }
    done = true;
    writer.join();
    pybptt_network_destroy(network);
}
#endif
