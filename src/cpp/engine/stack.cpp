#include "engine/stack.hpp"

#include "engine/sweep.hpp"
#include "engine/windows.hpp"

namespace pybptt {
namespace {

/// Values of an array between two layers.
std::size_t between_size(const RnnSizes& s, const Cut& cut) {
    const std::size_t steps = s.directions == 1 ? cut.most_steps() : s.steps;
    return checked_product(checked_product(steps, s.batch), s.directions * s.h_width());
}

}  // namespace

template <class Real>
ForwardStack<Real>::ForwardStack(const typename Tape<Real>::Contents& tape, const RnnInput<Real>& input,
                                 const RnnState<const Real>& state, const RnnOutput<Real>& output, int team)
    : tape_(tape) {
    const RnnSizes& s = tape.sizes;
    const auto meet_on_the_way = [&] { return tape.recurrences.front()->moves_chunks || Division(s, team).by_columns; };
    if (team > 1 && !tape.schedule.stretches().empty() && !meet_on_the_way())
        relays_.reset(new Relay[tape.rounds() * std::size_t(team)]);
    const std::size_t P = s.h_width(), K = s.directions, width = K * P;
    const bool of_chunk = K == 1;
    for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(between_size(s, tape.recurrences[0]->cut));
    for (std::size_t i = 0; i < tape.recurrences.size(); ++i) {
        const std::size_t layer = i / K, side = i % K * P;
        RecurrenceArrays<Real> a;
        if (layer == 0) {
            a.x = {input.dense, s.inputs};
        } else {
            a.x = {between_[(layer - 1) % 2].data(), width, of_chunk};
            a.mask = {moved(input.mask, (layer - 1) * s.time_rows() * width), width};
        }
        a.state = state_of(s, state, i);
        const bool last = layer + 1 == s.layers;
        a.output = {moved(last ? output.output : between_[layer % 2].data(), side), width, of_chunk && !last};
        a.final_state = state_of(s, output.final_state, i);
        a.cells = {moved(output.cells, i * s.time_rows() * s.hidden), s.hidden};
        passes_.push_back(std::make_unique<ForwardPass<Real>>(*tape.recurrences[i], a));
    }
}

template <class Real>
void ForwardStack<Real>::prepare(const Weights<Real>& weights, const Member& member) {
    for (std::size_t i = 0; i < passes_.size(); ++i) {
        const RecurrenceTape<Real>& recurrence = *tape_.recurrences[i];
        if (weights.packed == nullptr) recurrence.weights->pack(weights.parameters[i], recurrence.selection.ids.data(), member);
        passes_[i]->write_paddings(member);
    }
    member.wait();
    const auto& r = tape_.recurrences;  // directions look for themselves: another thread may have written to x in between
    if (r.front()->selection.z.size() + r[tape_.sizes.directions - 1]->selection.z.size() == 0) return;
    for (std::size_t i = 0; i < tape_.sizes.directions; ++i) passes_[i]->project_selection(member);
    member.wait();
}

template <class Real>
void ForwardStack<Real>::run(Steps& steps, const Member& member, const AfterChunk& after_chunk) {
    const auto& stretches = tape_.schedule.stretches();
    Relay* relays = relays_.get();
    for (std::size_t first = 0; first < passes_.size(); first += tape_.together()) {
        for (std::size_t i = 0; i < stretches.size() && i <= tape_.schedule.turn(); ++i)
            run(stretches[i], first, steps, member, after_chunk, relays != nullptr ? relays + member.index : nullptr);
        for (int k = 1; relays != nullptr && k < member.team; ++k) {  // who comes to the end takes over from those who are late
            const Member late{(member.index + k) % member.team, member.team, member.all};
            const std::size_t end = stretches[0].count;
            for (std::size_t c = relays[late.index].take_over(end, member); c < end; ++c) run(stretches[0], c, first, late);
        }
        member.wait();
        if (relays != nullptr) relays += member.team;
    }
}

template <class Real>
void ForwardStack<Real>::run(const Stretch& stretch, std::size_t first, Steps& steps, const Member& member,
                             const AfterChunk& after_chunk, Relay* own) {
    for (std::size_t c = 0; c < stretch.count; ++c) {
        if (own == nullptr || steps.reports() || !own->hand_over(c, false, member)) {
            const Chunk chunk = run(stretch, c, first, member);
            if (after_chunk && first + tape_.together() == passes_.size()) after_chunk(chunk);
        }
        steps.next();
    }
    if (own != nullptr) own->hand_over(stretch.count, true, member);
}

template <class Real>
Chunk ForwardStack<Real>::run(const Stretch& stretch, std::size_t c, std::size_t first, const Member& member) {
    const std::size_t carry = tape_.schedule.carry();
    const Chunk chunk = tape_.recurrences[first]->cut.chunk(stretch.first + c, stretch.place(c));
    for (std::size_t i = first; i < first + tape_.together(); ++i)
        passes_[i]->run(chunk, c == 0 ? stretch.from : carry, c + 1 == stretch.count ? stretch.to : carry, member);
    return chunk;
}

namespace {

/// Without windows.
template <class Real>
class SweepStack final : public BackwardStack<Real> {
    using BackwardStack<Real>::tape_;

public:
    SweepStack(const typename Tape<Real>::Contents& tape, int team, const BackwardArrays<Real>& arrays)
        : BackwardStack<Real>(tape),
          spaces_(team > 1 && !tape.plan.limited() && !tape.plan.under_limit() ? 2 : 1),
          lowest_layer_(tape.sizes.layers - 1) {  // the last is swept in any case: its upstream may be a loss
        const RnnSizes& s = tape.sizes;
        const std::size_t P = s.h_width(), K = s.directions, width = K * P;
        const bool of_chunk = K == 1;
        const RecurrenceTape<Real>& first = *tape.recurrences.front();
        for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(between_size(s, first.cut));
        dz_ = PanelBuffer<Real>(first.cut.most_rows(), first.dz_cols(), spaces_);
        const std::size_t widest = std::max(arrays.gradients.input != nullptr ? s.inputs : 0, s.layers > 1 ? width : 0);
        if (widest != 0) dx_ = PanelBuffer<Real>(first.cut.most_rows(), widest);
        for (std::size_t i = 0; i < tape.recurrences.size(); ++i) {
            const RecurrenceTape<Real>& recurrence = *tape.recurrences[i];
            const std::size_t layer = i / K, direction = i % K;
            RecurrenceGradients<Real> g(s, i, arrays);
            if (g.any()) lowest_layer_ = std::min(lowest_layer_, layer);
            if (layer > lowest_layer_) g.input.rows = {between_[(layer - 1) % 2].data(), width, of_chunk};
            sweeps_.push_back(std::make_unique<Sweep<Real>>(recurrence, team, g, dx_, arrays.limits));
            const bool last = layer + 1 == s.layers;
            const Real* from = last ? arrays.upstream.output : between_[layer % 2].data();
            upstreams_.emplace_back(recurrence.cut, UserRows<const Real>{moved(from, direction * P), width, of_chunk && !last});
        }
    }

    void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member) override {
        const std::size_t K = tape_.sizes.directions, recurrences = sweeps_.size();
        for (const auto& sweep : sweeps_) sweep->start(member);
        member.wait();  // what one direction adds to is there
        Swept late;
        const auto add = [&](Swept& swept) {
            if (swept.by != nullptr) swept.by->add(swept.chunk, dz_.matrix(swept.space), member);
            swept.by = nullptr;
        };
        std::size_t space = 0;
        const auto run = [&](std::size_t recurrence, const Chunk& chunk) {
            if (recurrence / K < lowest_layer_) return;
            Upstream<Real>& given = upstreams_[recurrence];
            Swept swept{sweeps_[recurrence].get(), chunk, space = (space + 1) % spaces_};
            swept.by->run(chunk, recurrence + 1 == recurrences && top != nullptr ? *top : given, dz_.matrix(space), member);
            add(late);
            member.wait();
            late = swept;
            if (spaces_ > 1 && recurrence / K == lowest_layer_) return;
            add(late);
            member.wait();
        };
        const std::size_t together = tape_.together();
        for (std::size_t end = recurrences; end != 0; end -= together)
            this->sweep_chunks(again, steps, member, [&](const Chunk& chunk) {
                for (std::size_t i = end; i-- > end - together;) run(i, chunk);
            });
        add(late);
        member.wait();
        for (const auto& sweep : sweeps_) sweep->finish(member);
    }

private:
    /// A chunk that is not in the weight gradients yet. In a team nobody waits for the lowest layer's: it is added after the next
    /// chunk's sweep, by those who have ended their part of that first.
    struct Swept {
        Sweep<Real>* by = nullptr;
        Chunk chunk{};
        std::size_t space = 0;  // where its dz is
    };

    Buffer<Real> between_[2];                           // dL/d(a layer's output), likewise
    const std::size_t spaces_;                          // for dz
    PanelBuffer<Real> dz_;                              // of a chunk (rows, dz_cols): dh_t in block 0 or behind all, then dz_t
    PanelBuffer<Real> dx_;                              // of a chunk (rows, D of the widest layer), if it is wanted
    std::size_t lowest_layer_;                          // nobody asks for anything below it
    std::vector<std::unique_ptr<Sweep<Real>>> sweeps_;  // of each recurrence
    std::vector<GivenUpstream<Real>> upstreams_;
};

}  // namespace

template <class Real>
std::unique_ptr<BackwardStack<Real>> BackwardStack<Real>::make(const typename Tape<Real>::Contents& tape, int team,
                                                               const BackwardArrays<Real>& arrays) {
    if (arrays.limits.k2 != 0) return std::make_unique<WindowStack<Real>>(tape, team, arrays);
    return std::make_unique<SweepStack<Real>>(tape, team, arrays);
}

template class ForwardStack<float>;
template class ForwardStack<double>;
template class BackwardStack<float>;
template class BackwardStack<double>;

}  // namespace pybptt
