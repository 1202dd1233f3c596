// Main memory as the SoC sees it: one port, a settable width and latency, everything in order.
//
// Requests and writes wait in one queue. Each cycle at most one beat moves, read or write, and no
// more than `bytes_per_cycle` on average; what was read arrives `latency` cycles after it moved, at
// the earliest. A write takes effect when it moves, which no later access can tell from earlier.

#pragma once

#include <cstdint>
#include <cstring>
#include <deque>

#include "pages.h"

class MainMemory {
public:
    MainMemory(uint64_t size, uint32_t beat, uint32_t latency, uint32_t bytes_per_cycle)
        : pages_(size), beat_(beat), latency_(latency), bytes_per_cycle_(bytes_per_cycle) {}

    uint8_t* data() { return pages_.data(); }

    // Whether a read request and a write may both be accepted in this cycle.
    bool ready() const { return commands_.size() + 2 <= kQueue; }

    // The beat offered in `cycle`, or null.
    const uint8_t* offered(uint64_t cycle) const {
        return !beats_.empty() && beats_.front().due <= cycle ? beats_.front().bytes : nullptr;
    }
    void taken() { beats_.pop_front(); }

    // Both return false for an access outside of the memory, or one that breaks the port's rules.
    bool read(uint32_t address, uint32_t beats) {
        if (beats < 1 || beats > 64 || !inside(address, beats)) return false;
        commands_.push_back({address, beats, 0, {}});
        return true;
    }
    bool write(uint32_t address, const uint8_t* bytes, uint64_t mask) {
        if (!inside(address, 1)) return false;
        Command command{address, 0, mask, {}};
        std::memcpy(command.bytes, bytes, beat_);
        commands_.push_back(command);
        return true;
    }

    // Let one cycle pass; nothing moves in it if `stalled`.
    void advance(uint64_t cycle, bool stalled) {
        if (credit_ < beat_) credit_ += bytes_per_cycle_;
        if (stalled || credit_ < beat_ || commands_.empty()) return;
        Command& command = commands_.front();
        if (command.beats) {
            if (beats_.size() >= latency_ + kBacklog) return;
            beats_.emplace_back();
            beats_.back().due = cycle + latency_;
            std::memcpy(beats_.back().bytes, data() + command.address, beat_);
            command.address += beat_;
            if (--command.beats == 0) commands_.pop_front();
        } else {
            store(command);
            commands_.pop_front();
        }
        credit_ -= beat_;
    }

    // Have every accepted write take effect, so that the memory can be looked at.
    void settle() {
        for (Command& command : commands_) {
            if (command.beats == 0) store(command), command.mask = 0;
        }
    }

    void reset() {
        settle();
        commands_.clear();
        beats_.clear();
        credit_ = 0;
    }

private:
    static constexpr size_t kQueue = 4;     // commands that were accepted and have not moved
    static constexpr size_t kBacklog = 128; // beats that have arrived and were not taken

    struct Command {
        uint32_t address;
        uint32_t beats;  // 0: a write
        uint64_t mask;
        uint8_t bytes[64];
    };
    struct Beat {
        uint64_t due;
        uint8_t bytes[64];
    };

    bool inside(uint32_t address, uint32_t beats) const {
        return address % beat_ == 0 && uint64_t{address} + uint64_t{beats} * beat_ <= pages_.size();
    }
    void store(const Command& command) {
        for (uint32_t i = 0; i < beat_; ++i) {
            if (command.mask >> i & 1) data()[command.address + i] = command.bytes[i];
        }
    }

    Pages pages_;
    uint32_t beat_, latency_, bytes_per_cycle_, credit_ = 0;
    std::deque<Command> commands_;
    std::deque<Beat> beats_;
};
