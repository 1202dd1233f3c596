// Runs module `compare` on random inputs: copies of one design whose outputs must be the same.

#include <cstdint>
#include <cstring>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

namespace {

struct Random {
    uint64_t state;
    uint64_t operator()() {
        state ^= state << 13;
        state ^= state >> 7;
        return state ^= state << 17;
    }
};

}  // namespace

extern "C" {

// Returns the cycle in which the copies first differ, or `cycles`; `outputs` gets the bits that
// were ever 1, and `wrong` those that differed.
uint64_t compare_run(uint64_t seed, uint64_t cycles, uint32_t* outputs, uint32_t* wrong) {
    auto context = std::make_unique<VerilatedContext>();
    auto top = std::make_unique<Vtop>(context.get());
    Random random{seed * 0x9E3779B97F4A7C15u | 1};
    uint32_t base[sizeof(top->i) / 4], held[sizeof(top->i) / 4];
    std::memset(outputs, 0, sizeof(top->seen));
    top->clk = 0;
    top->eval();
    for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
        // Some of the bits rest for a while, so that addresses are met again.
        if (cycle % 64 == 0) {
            for (auto& word : base) word = uint32_t(random());
            for (auto& word : held) word = uint32_t(random()) | uint32_t(random());
        }
        for (size_t k = 0; k < sizeof(top->i) / 4; ++k) {
            top->i[k] = (base[k] & held[k]) | (uint32_t(random()) & ~held[k]);
        }
        top->rst = random() % 256 == 0;
        // Inputs change in the clock's low half; both halves are looked at.
        for (int clock = 0; clock < 2; ++clock) {
            top->clk = clock;
            top->eval();
            for (size_t k = 0; k < sizeof(top->seen) / 4; ++k) outputs[k] |= top->seen[k];
            bool same = true;
            for (size_t k = 0; k < sizeof(top->wrong) / 4; ++k) {
                wrong[k] = top->wrong[k];
                same &= !wrong[k];
            }
            if (!same) return cycle;
        }
    }
    top->final();
    return cycles;
}
}
