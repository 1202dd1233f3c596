// Main memory as the chip (`sdram.h`) behind the controller's pins.

#pragma once

#include <optional>

#include "pages.h"
#include "sdram.h"

namespace {

struct MemoryOptions {
    uint64_t size;  // of the chip
    SdramSettings chip;
};

class MemoryPort {
public:
    explicit MemoryPort(const MemoryOptions& options) : options_(options), pages_(options.size) {
        reset();
    }

    uint8_t* data() { return pages_.data(); }
    const std::string& fault() const { return fault_; }

    // The power comes back; contents stay, for the convenience of simulations.
    void reset() {
        chip_.emplace(options_.chip, pages_.data());
        fault_.clear();
        quiet_ = 0;
    }
    bool started() const { return chip_->ready(); }

    // Whether to wait before looking at the contents. A write that was accepted reaches the chip in
    // less time than a refresh takes, or behind a few bursts.
    bool settling(uint32_t waited) const {
        return waited < kQuiet || (quiet_ < kQuiet && waited < kLong);
    }

    void sample(Vtop& t, uint64_t, bool) {
        const SdramPins pins = {
            t.pins___05Fcke, t.pins___05Fcs_n, t.pins___05Fras_n, t.pins___05Fcas_n,
            t.pins___05Fwe_n, t.pins___05Fba, t.pins___05Fa, t.pins___05Fdqm, t.pins___05Fdq_oe,
            t.pins___05Fdq_o};
        quiet_ = pins.ras_n && !pins.cas_n ? 0 : quiet_ + 1;
        chip_->tick(pins);
        if (!chip_->fault().empty() && fault_.empty()) {
            fault_ = "broke a rule of its SDRAM (" + chip_->fault() + ")";
        }
    }

    void drive(Vtop& t, uint64_t, bool) {
        uint32_t word;
        // What nobody drives is wrong whatever is expected.
        noise_ = noise_ * 1664525u + 1013904223u;
        t.pins___05Fdq_i = chip_->word(word) ? word : noise_ >> (32 - 8 * options_.chip.data_bytes);
    }

private:
    static constexpr uint32_t kQuiet = 100, kLong = 4000;

    MemoryOptions options_;
    Pages pages_;
    std::optional<Sdram> chip_;
    std::string fault_;
    uint32_t noise_ = 1;
    uint64_t quiet_ = 0;  // cycles since the last READ or WRITE
};

}  // namespace
