// Main memory on the SoC's own memory port, with a settable width and latency (`memory.h`).

#pragma once

#include <string>

#include "memory.h"

namespace {

struct MemoryOptions {
    uint64_t size;
    uint32_t latency;
    uint32_t bytes_per_cycle;
};

class MemoryPort {
public:
    explicit MemoryPort(const MemoryOptions& options)
        : memory_(options.size, BEAT, options.latency, options.bytes_per_cycle) {}

    uint8_t* data() { return memory_.data(); }
    const std::string& fault() const { return fault_; }

    void reset() {
        memory_.reset();
        fault_.clear();
    }
    bool started() const { return true; }

    // Accepted writes take effect, which no later access can tell from earlier.
    bool settling(uint32_t) {
        memory_.settle();
        return false;
    }

    void sample(Vtop& t, uint64_t cycle, bool stalled) {
        if (beat_ && t.memory_read___05Fdata___05Fready) memory_.taken();
        if (open_ && t.memory_write___05Fvalid) write(t);
        if (open_ && t.memory_read___05Frequest___05Fvalid) {
            const uint64_t request = t.memory_read___05Frequest___05Fpayload;
            if (!memory_.read(uint32_t(request), uint32_t(request >> 32))) fail("read");
        }
        memory_.advance(cycle, stalled);
    }

    void drive(Vtop& t, uint64_t cycle, bool stalled) {
        const uint8_t* beat = memory_.offered(cycle);
        t.memory_read___05Fdata___05Fvalid = beat_ = beat != nullptr;
        if (beat) set(t.memory_read___05Fdata___05Fpayload, beat, BEAT);
        open_ = memory_.ready() && !stalled;
        t.memory_read___05Frequest___05Fready = t.memory_write___05Fready = open_;
    }

private:
    void fail(const char* verb) {
        fault_ = std::string(verb) + " outside of main memory or not by whole beats";
    }

    void write(Vtop& t) {
        constexpr size_t mask_bytes = (BEAT + 7) / 8;
        uint8_t payload[4 + BEAT + mask_bytes];
        get(t.memory_write___05Fpayload, payload, sizeof payload);
        uint32_t address;
        uint64_t mask = 0;
        std::memcpy(&address, payload, 4);
        std::memcpy(&mask, payload + 4 + BEAT, mask_bytes);
        if (!memory_.write(address, payload + 4, mask)) fail("wrote");
    }

    MainMemory memory_;
    std::string fault_;
    bool beat_ = false, open_ = false;  // what was driven for this cycle
};

}  // namespace
