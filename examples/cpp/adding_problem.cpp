// The adding problem with an LSTM (Hochreiter and Schmidhuber 1997): of 20 random numbers two are marked, and the answer is their
// sum. Always saying 1 has a mean squared error of 1/6 = 0.167.
//
//     adding_problem [training steps]
//
// Ends with 1 if the network has not learned it.
#include <pybptt/version.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <pybptt/machine.hpp>
#include <pybptt/model.hpp>
#include <random>
#include <vector>

namespace {

constexpr std::size_t T = 20, B = 32, D = 2, H = 32, G = 4, Q = 1;
using Values = std::vector<float>;

/// One array for all parameters, or for all their gradients: an optimiser needs no more than that.
struct Flat {
    static constexpr std::size_t kWeightIh = 0, kWeightHh = kWeightIh + G * H * D, kBias = kWeightHh + G * H * H,
                                 kOutputWeight = kBias + G * H, kOutputBias = kOutputWeight + Q * H, kSize = kOutputBias + Q;
    Values values = Values(kSize);

    float* at(std::size_t offset) { return values.data() + offset; }
};

/// Adam (Kingma and Ba 2015), with the gradient scaled down to a norm of 1.
class Adam {
public:
    void step(Values& parameters, Values& gradient) {
        double square = 0;
        for (const float g : gradient) square += double(g) * g;
        const float scale = float(1 / std::max(1.0, std::sqrt(square)));
        ++steps_;
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            const float g = scale * gradient[i];
            mean_[i] += 0.1f * (g - mean_[i]);
            square_[i] += 0.001f * (g * g - square_[i]);
            const float m = mean_[i] / (1 - std::pow(0.9f, float(steps_)));
            const float v = square_[i] / (1 - std::pow(0.999f, float(steps_)));
            parameters[i] -= 0.01f * m / (std::sqrt(v) + 1e-8f);
        }
    }

private:
    Values mean_ = Values(Flat::kSize), square_ = Values(Flat::kSize);
    int steps_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    const int training_steps = argc > 1 ? std::atoi(argv[1]) : 600;
    std::printf("pybptt %s, tier %s, %d threads\n", PYBPTT_VERSION, pybptt::active_tier().c_str(), pybptt::num_threads());

    pybptt::RnnSizes sizes{T, B, D, H};
    sizes.cell.kind = pybptt::CellKind::lstm;

    std::mt19937 random(0);
    std::uniform_real_distribution<float> unit(0, 1);
    Flat w, dw;
    for (float& value : w.values) value = (2 * unit(random) - 1) / std::sqrt(float(H));
    for (std::size_t j = 0; j < H; ++j) w.at(Flat::kBias)[H + j] = 4;  // forget gates begin open; gates in the order i f g o

    // One bias is enough: the two of PyTorch are only ever added.
    const pybptt::RnnParameters<float> parameters{w.at(Flat::kWeightIh), w.at(Flat::kWeightHh), w.at(Flat::kBias), nullptr};
    const pybptt::OutputLayer<float> output{Q, w.at(Flat::kOutputWeight), w.at(Flat::kOutputBias), true};
    const pybptt::RnnParameterGradients<float> d_parameters{dw.at(Flat::kWeightIh), dw.at(Flat::kWeightHh), dw.at(Flat::kBias),
                                                            nullptr};
    const pybptt::OutputGradients<float> d_output{dw.at(Flat::kOutputWeight), dw.at(Flat::kOutputBias)};
    Values d_hidden(T * B * H);  // dL/dh_t for all t
    pybptt::RnnGradients<float> gradients{&d_parameters};
    gradients.hidden = d_hidden.data();

    Values x(T * B * D), y(B);
    Adam adam;
    double recent = 0, last = 0;
    const int report = std::max(1, training_steps / 6);
    for (int step = 1; step <= training_steps; ++step) {
        for (std::size_t i = 0; i < T * B; ++i) {
            x[i * D] = unit(random);
            x[i * D + 1] = 0;
        }
        for (std::size_t b = 0; b < B; ++b) {
            const std::size_t first = random() % (T / 2), second = T / 2 + random() % (T / 2);
            x[(first * B + b) * D + 1] = x[(second * B + b) * D + 1] = 1;
            y[b] = x[(first * B + b) * D] + x[(second * B + b) * D];
        }
        const pybptt::Targets<float> targets{pybptt::Loss::squared_error, 1.0 / B, nullptr, y.data()};
        recent +=
            pybptt::loss_and_grad<float>(sizes, &parameters, {x.data(), nullptr}, {}, output, targets, {}, gradients, d_output);
        if (step == 1) {
            std::printf("norms of dL/dh_t before training:");
            for (std::size_t t = 0; t < T; t += T / 5) {
                double square = 0;
                for (std::size_t i = t * B * H; i < (t + 1) * B * H; ++i) square += double(d_hidden[i]) * d_hidden[i];
                std::printf("  t = %zu: %.2e", t + 1, std::sqrt(square));
            }
            std::printf("\ndL/db of the first output: %.6f\n", double(dw.at(Flat::kOutputBias)[0]));
        }
        adam.step(w.values, dw.values);
        if (step % report == 0) {
            last = recent / report;
            std::printf("step %4d: %.4f\n", step, last);
            recent = 0;
        }
    }
    return last < 0.05 ? 0 : 1;
}
