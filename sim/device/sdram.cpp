// The SDRAM chip by itself, for Python: benches of the controller, and tests of the model.

#include "sdram.h"

#include <new>

namespace {

struct Chip {
    explicit Chip(const SdramSettings& settings)
        : data(uint64_t{Sdram::kBanks * settings.data_bytes}
               << (settings.row_bits + settings.column_bits)),
          chip(settings, data.data()) {}

    std::vector<uint8_t> data;
    Sdram chip;
};

}  // namespace

extern "C" {

Chip* sdram_create(const SdramSettings* settings) {
    try {
        return new Chip(*settings);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void sdram_destroy(Chip* chip) { delete chip; }
uint8_t* sdram_memory(Chip* chip) { return chip->data.data(); }
const char* sdram_fault(Chip* chip) { return chip->chip.fault().c_str(); }
uint64_t sdram_refreshes(Chip* chip) { return chip->chip.refresh_count(); }

// Returns 1 when the chip's `word` reaches the controller in the next cycle.
uint32_t sdram_tick(Chip* chip, const SdramPins* pins, uint32_t* word) {
    chip->chip.tick(*pins);
    return chip->chip.word(*word);
}
}
