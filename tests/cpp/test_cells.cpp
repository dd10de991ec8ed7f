// The arithmetic of the cells at one step against their equations (graph.hpp), in every tier.
#include <functional>

#include "graph.hpp"
#include "support.hpp"

namespace pybptt::test {
namespace {

constexpr double kStepClip = 0.75;

struct Variant {
    CellConfig config;
    std::string name;
};
std::vector<Variant> variants() {
    std::vector<Variant> all;
    for (const double clip : {0.0, kStepClip}) {
        const std::string end = clip != 0 ? ", clipped" : "";
        CellConfig c;
        c.clip = clip;
        for (const Nonlinearity phi : kNonlinearities) {
            c.nonlinearity = phi;
            all.push_back({c, "Elman " + std::to_string(int(phi)) + end});
        }
        c.kind = CellKind::lstm;
        for (const bool peephole : {false, true})
            for (const bool coupled : {false, true}) {
                c.peephole = peephole;
                c.coupled = coupled;
                all.push_back({c, std::string("LSTM") + (peephole ? ", peephole" : "") + (coupled ? ", coupled" : "") + end});
            }
        c.peephole = c.coupled = false;
        c.kind = CellKind::gru;
        for (const bool after : {false, true}) {
            c.reset_after = after;
            all.push_back({c, std::string("GRU, reset ") + (after ? "after" : "before") + end});
        }
    }
    return all;
}
/// One unit of one sample: what goes in, and what its equations make of it.
struct Element {
    // in
    double z[4], h_before, c_before, peephole[3];
    double d_h, carry, d_q;  // derivatives by h_t, of LSTM by c_t, of GRU with reset before by q
    // out
    double saved[4], h, c;
    double dz[4], carry_after;
    double nearest_kink;

    void solve(const CellConfig& config) {
        using Id = Graph::Id;
        Graph g;
        Equations eq(g, config);
        const Id in = g.leaves(z, 4), h_0 = g.leaf(h_before), c_0 = g.leaf(c_before), p = g.leaves(peephole, 3);
        Id made[4] = {in, in + 1, in + 2, in + 3}, h_1, c_1 = c_0;
        if (config.kind == CellKind::elman) {
            h_1 = eq.elman(in);
        } else if (config.kind == CellKind::lstm) {
            const Id later = config.coupled ? in + 1 : in + 2, p_o = config.coupled ? p + 1 : p + 2;
            const Equations::Lstm a = eq.lstm(in, in + 1, later, later + 1, c_0, p, p + 1, p_o);
            if (config.coupled)
                made[0] = a.i, made[1] = a.g, made[2] = a.o;
            else
                made[0] = a.i, made[1] = a.f, made[2] = a.g, made[3] = a.o;
            h_1 = a.h;
            c_1 = a.c;
            g.slope[c_1] = carry;
        } else {  // blocks r z m n, or r z n q
            made[0] = eq.sigma(in);
            made[1] = eq.sigma(in + 1);
            if (config.reset_after) {
                made[3] = eq.tanh(g.add(in + 3, g.multiply(made[0], in + 2)));
            } else {
                made[2] = eq.tanh(in + 2);
                made[3] = g.multiply(made[0], h_0);
                g.slope[made[3]] = d_q;
            }
            h_1 = eq.gru(made[1], config.reset_after ? made[3] : made[2], h_0);
        }
        for (int b = 0; b < 4; ++b) saved[b] = g.value[made[b]];
        h = g.value[h_1];
        c = g.value[c_1];
        nearest_kink = eq.nearest_kink;
        g.slope[h_1] = d_h;
        g.go_back();
        for (Id b = 0; b < 4; ++b) dz[b] = g.slope[in + b];
        carry_after = config.kind == CellKind::lstm ? g.slope[c_0] : g.slope[h_0];
    }
};

/// Matrices of one step, `panels` whole panels of units in each block.
template <class Real>
struct Step {
    static constexpr std::size_t L = kLanes<Real>;

    Step(std::size_t rows, std::size_t panels, int block_count)
        : panels(panels),
          blocks(std::size_t(block_count)),
          stride(panels * L + L),
          z(rows, blocks * panels * L, Layout::panels),
          dz(rows, blocks * panels * L, Layout::panels),
          h_before(rows, panels * L, Layout::panels),
          h(rows, panels * L, Layout::panels),
          c_before(rows, panels * L, Layout::panels),
          c(rows, panels * L, Layout::panels),
          carry(rows, panels * L, Layout::panels),
          peephole(3 * stride) {}

    CellStep<Real> forward(std::size_t first, const CellConfig& config) const {
        CellStep<Real> step{};
        step.z = z.view().panels_from(first);
        step.block_stride = panels * z.view().panel_stride;
        step.h_before = h_before.view().panels_from(first);
        step.h = h.view().panels_from(first);
        step.c_before = c_before.view().panels_from(first);
        step.c = c.view().panels_from(first);
        step.vectors = peephole.data() + first * L;
        step.vector_stride = stride;
        step.clip = Real(config.clip);
        return step;
    }
    CellSweep<Real> backward(std::size_t first, const CellConfig& config) const {
        CellSweep<Real> step{};
        const CellStep<Real> made = forward(first, config);
        step.saved = made.z;
        step.saved_stride = made.block_stride;
        step.h_before = made.h_before;
        step.h = made.h;
        step.c_before = made.c_before;
        step.c = made.c;
        step.dz = dz.view().panels_from(first);
        step.dz_stride = panels * dz.view().panel_stride;
        step.carry = carry.view().panels_from(first);
        step.vectors = made.vectors;
        step.vector_stride = stride;
        step.clip = made.clip;
        return step;
    }

    const std::size_t panels, blocks, stride;
    TestMatrix<Real> z, dz, h_before, h, c_before, c, carry;
    Fenced<Real> peephole;
};

TEST_SUITE_BEGIN("kernels");

TEST_CASE_TEMPLATE("every cell's step and its way back are its equations", Real, float, double) {
    constexpr std::size_t L = kLanes<Real>;
    struct Part {
        std::size_t rows, panels, first, count;  // panels [first, first + count) of the units
    };
    Random random(41);
    for (const Variant& variant : variants()) {
        const CellConfig& config = variant.config;
        const bool is_elman = config.kind == CellKind::elman, is_lstm = config.kind == CellKind::lstm;
        const bool is_before = config.kind == CellKind::gru && !config.reset_after;
        for (const Part& part : {Part{1, 1, 0, 1}, Part{5, 3, 1, 2}, Part{0, 1, 0, 1}}) {
            const std::size_t first = part.first * L, end = first + part.count * L, cols = part.panels * L;
            std::vector<Element> elements(part.rows * cols);
            const auto values = random.reals(1.5);
            std::vector<double> peephole(3 * cols);
            std::generate(peephole.begin(), peephole.end(), values);
            for (std::size_t i = 0; i < elements.size(); ++i) {
                Element& e = elements[i];
                for (double* value : {&e.z[0], &e.z[1], &e.z[2], &e.z[3], &e.h_before, &e.c_before, &e.d_h, &e.carry, &e.d_q})
                    *value = values();
                for (std::size_t p = 0; p < 3; ++p) e.peephole[p] = peephole[p * cols + i % cols];
                e.solve(config);
            }
            for_each_tier<Real>([&](const Kernels<Real>& k) {
                CAPTURE(variant.name);
                CAPTURE(part.rows);
                const Cell<Real>& cell = k.cell(config);
                const Step<Real> step(part.rows, part.panels, cell.blocks);
                const auto at = [&](std::size_t r, std::size_t u) -> const Element& { return elements[r * cols + u]; };
                const auto set = [&](const TestMatrix<Real>& m, auto value) {
                    for (std::size_t r = 0; r < part.rows; ++r)
                        for (std::size_t u = 0; u < cols; ++u) m(r, u) = Real(value(at(r, u)));
                };
                /// "" if the block of `m` is as expected in the part and untouched elsewhere.
                const auto wrong = [&](const TestMatrix<Real>& m, int block, auto value) -> std::string {
                    for (std::size_t r = 0; r < part.rows; ++r)
                        for (std::size_t u = 0; u < cols; ++u) {
                            const Real got = m(r, std::size_t(block) * cols + u);
                            const double wanted = value(at(r, u));
                            if (u < first || u >= end) {
                                if (!is_guard(got)) return "written outside the part";
                            } else if (at(r, u).nearest_kink > 1e-5 &&
                                       !(std::abs(double(got) - wanted) <= 24 * double(kEpsilon<Real>) * (1 + std::abs(wanted)))) {
                                return variant.name + " block " + std::to_string(block) + ": expected " + std::to_string(wanted) +
                                       ", got " + std::to_string(got);
                            }
                        }
                    return "";
                };
                const auto only_part = [&](const TestMatrix<Real>& m, int blocks) {  // guards elsewhere
                    for (std::size_t r = 0; r < part.rows; ++r)
                        for (std::size_t u = 0; u < std::size_t(blocks) * cols; ++u)
                            if (u % cols < first || u % cols >= end) std::memset(&m(r, u), kGuardByte, sizeof(Real));
                };
                for (int b = 0; b < cell.blocks; ++b)
                    for (std::size_t r = 0; r < part.rows; ++r)
                        for (std::size_t u = 0; u < cols; ++u) step.z(r, std::size_t(b) * cols + u) = Real(at(r, u).z[b]);
                if (is_elman) set(step.h, [](const Element& e) { return e.z[0]; });
                only_part(step.z, cell.blocks);
                if (is_elman) only_part(step.h, 1);
                set(step.h_before, [](const Element& e) { return e.h_before; });
                set(step.c_before, [](const Element& e) { return e.c_before; });
                for (std::size_t p = 0; p < 3; ++p)
                    std::copy_n(peephole.begin() + std::ptrdiff_t(p * cols), cols, step.peephole.begin() + p * step.stride);

                for (int phase = 0; phase < cell.phases; ++phase)
                    cell.forward[phase](part.rows, part.count, step.forward(part.first, config));
                REQUIRE(wrong(step.h, 0, [](const Element& e) { return e.h; }) == "");
                if (is_lstm) REQUIRE(wrong(step.c, 0, [](const Element& e) { return e.c; }) == "");
                for (int b = 0; !is_elman && b < cell.blocks; ++b)
                    REQUIRE(wrong(step.z, b, [&](const Element& e) { return e.saved[b]; }) == "");

                set(step.dz, [](const Element& e) { return e.d_h; });
                only_part(step.dz, 1);
                if (is_lstm) {
                    set(step.carry, [](const Element& e) { return e.carry; });
                    only_part(step.carry, 1);
                }
                for (int phase = cell.phases; phase-- > 0;) {
                    cell.backward[phase](part.rows, part.count, step.backward(part.first, config));
                    if (phase != 0)  // the engine makes dq
                        for (std::size_t r = 0; r < part.rows; ++r)
                            for (std::size_t u = first; u < end; ++u) step.dz(r, 3 * cols + u) = Real(at(r, u).d_q);
                }
                for (int b = 0; b < cell.blocks - int(is_before); ++b)
                    REQUIRE(wrong(step.dz, b, [&](const Element& e) { return e.dz[b]; }) == "");
                if (!is_elman) REQUIRE(wrong(step.carry, 0, [](const Element& e) { return e.carry_after; }) == "");
                for (const TestMatrix<Real>* m : {&step.z, &step.dz, &step.h, &step.c, &step.carry}) REQUIRE(m->guards_hold());
                if (!is_lstm) REQUIRE(step.c.untouched());
            });
        }
    }
}

TEST_CASE_TEMPLATE("a value at the bound of clipping has no derivative, and a NaN stays", Real, float, double) {
    for (const Variant& variant : variants()) {
        if (variant.config.clip == 0) continue;
        for_each_tier<Real>([&](const Kernels<Real>& k) {
            CAPTURE(variant.name);
            const Cell<Real>& cell = k.cell(variant.config);
            const Step<Real> step(1, 1, cell.blocks);
            const bool is_elman = cell.blocks == 1;
            const bool is_after = variant.config.kind == CellKind::gru && variant.config.reset_after;
            const Real places[] = {Real(kStepClip), Real(-kStepClip), Real(2 * kStepClip), Real(-100), Real(0.9 * kStepClip)};
            for (const TestMatrix<Real>* m : {&step.h_before, &step.c_before, &step.carry}) m->fill([] { return 0.5; });
            std::fill(step.peephole.begin(), step.peephole.end(), Real(0));
            const TestMatrix<Real>& z = is_elman ? step.h : step.z;
            const std::size_t L = kLanes<Real>;
            for (std::size_t i = 0; i < z.cols(); ++i) z(0, i) = i % L < 5 ? places[i % L] : Real(0.1);
            if (is_after)
                for (std::size_t i = 0; i < L; ++i) z(0, 2 * L + i) = 0;  // m: z_n is n's block alone
            z(0, 6) = std::numeric_limits<Real>::quiet_NaN();
            for (int phase = 0; phase < cell.phases; ++phase) cell.forward[phase](1, 1, step.forward(0, variant.config));
            CHECK(std::isnan(step.h(0, 6)) == (variant.config.kind != CellKind::gru || is_after));
            if (!is_elman) CHECK(std::isnan(step.z(0, 6)));
            step.dz.fill([] { return 1; });
            for (int phase = cell.phases; phase-- > 0;) {
                cell.backward[phase](1, 1, step.backward(0, variant.config));
                if (phase != 0)
                    for (std::size_t i = 0; i < L; ++i) step.dz(0, 3 * L + i) = 1;
            }
            for (int b = 0; b < cell.blocks; ++b) {
                if (is_after && b == 2) continue;                                           // dm = dn r
                if (b == 3 && variant.config.kind == CellKind::gru && !is_after) continue;  // dq
                if (is_after && b == 0) continue;                                           // m = 0
                CAPTURE(b);
                for (std::size_t i = 0; i < 4; ++i) CHECK(step.dz(0, std::size_t(b) * L + i) == 0);
                const bool flat = variant.config.kind == CellKind::elman && variant.config.nonlinearity == Nonlinearity::relu;
                if (!flat || places[4] > 0) CHECK(step.dz(0, std::size_t(b) * L + 4) != 0);
            }
        });
    }
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
