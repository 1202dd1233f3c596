// An SDR SDRAM chip, cycle by cycle, from the rules of its data sheet.
//
// It does what the chip does with correct commands, and stops at the first thing that the chip would
// not do, or not reliably: `fault()` says what, which rule it breaks, and in which cycle. Left out,
// and refused: auto precharge, burst terminate, power-down, self refresh, interleaved bursts, single
// writes, and bursts that are cut short by another command.
//
// Words lie in memory by row, bank and column, the column first.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

struct SdramSettings {
    double clock_ns;
    double tRCD, tRP, tRAS, tRC, tRFC, tRRD, tWR, tREFI, power_up;  // ns
    uint32_t tMRD, cas_latency, initial_refreshes;                  // cycles, number
    uint32_t data_bytes, row_bits, column_bits;
    uint32_t refreshes;  // that the time tREF of the data sheet is for
    uint32_t delay;      // cycles by which words arrive late at the controller
};

struct SdramPins {
    uint32_t cke, cs_n, ras_n, cas_n, we_n, ba, a, dqm, dq_oe, dq;
};

class Sdram {
public:
    static constexpr uint32_t kBanks = 4;

    Sdram(const SdramSettings& settings, uint8_t* data)
        : s_(settings), data_(data), refreshed_(settings.refreshes, 0) {}

    // One cycle: what the pins are at its end.
    void tick(const SdramPins& pins) {
        if (!fault_.empty()) return;
        ++cycle_;
        masks_[cycle_ % 3] = pins.dqm;
        drive();
        if (pins.dq_oe && (driving_ || drove_)) {
            fail("bus contention: the controller drives data while the chip does, or has just done");
        }
        write_word(pins);
        if (!pins.cke) {
            if (cke_) fail("CKE fell: the chip would power down");
            return;
        }
        if (!cke_) cke_ = true, begun_ = cycle_;
        if (pins.cs_n) return;
        switch (pins.ras_n << 2 | pins.cas_n << 1 | pins.we_n) {
            case 7: return;
            case 3: return command("ACTIVE"), activate(pins.ba, pins.a);
            case 5: return command("READ"), column(pins, false);
            case 4: return command("WRITE"), column(pins, true);
            case 2: return command("PRECHARGE"), precharge(pins.a >> 10 & 1, pins.ba);
            case 1: return command("AUTO REFRESH"), refresh();
            case 0: return command("LOAD MODE REGISTER"), load_mode(pins.ba, pins.a);
            default: fail("BURST TERMINATE: not used here");
        }
    }

    // The word that the controller gets in the cycle after the last tick; false: the chip, or the
    // way from it, leaves the pins alone.
    bool word(uint32_t& value) const {
        if (arriving_.empty() || arriving_.front().cycle != cycle_ + 1) return false;
        value = arriving_.front().value;
        return true;
    }

    const std::string& fault() const { return fault_; }
    bool ready() const { return mode_loaded_ != 0; }
    uint64_t refresh_count() const { return refresh_count_; }

private:
    static constexpr uint64_t kLongAgo = 0;
    static constexpr uint32_t kPostponed = 8;  // refreshes, at most: 9 tREFI from one to the next

    struct Bank {
        bool open = false;
        uint32_t row = 0;
        uint64_t activated = kLongAgo, precharged = kLongAgo, written = kLongAgo, read = kLongAgo;
    };
    struct Word {
        uint64_t cycle;
        uint64_t index;
        uint32_t value;
    };

    double since(uint64_t event) const { return double(cycle_ - event) * s_.clock_ns; }

    void fail(const std::string& what) {
        if (fault_.empty()) fault_ = "cycle " + std::to_string(cycle_) + ": " + what;
    }

    // An event that never was is far away.
    void least(const char* rule, double ns, uint64_t event, const char* name) {
        if (event != kLongAgo && since(event) < ns - 1e-3) {
            char text[160];
            std::snprintf(text, sizeof text, "%s %g ns after %s, %s wants %g ns", command_,
                          since(event), name, rule, ns);
            fail(text);
        }
    }

    void command(const char* name) {
        command_ = name;
        if (since(begun_) < s_.power_up) {
            char text[160];
            std::snprintf(text, sizeof text, "%s %g ns after power-up, which takes %g ns", name,
                          since(begun_), s_.power_up);
            fail(text);
        }
        least("tRFC", s_.tRFC, last_refresh_, "AUTO REFRESH");
        if (mode_loaded_ && cycle_ - mode_loaded_ < s_.tMRD) {
            fail(std::string(name) + " too early after LOAD MODE REGISTER, against tMRD");
        }
    }

    void activate(uint32_t bank, uint32_t row) {
        Bank& b = banks_[bank];
        if (!mode_loaded_) return fail("ACTIVE before the mode register was loaded");
        if (b.open) return fail("ACTIVE in bank " + std::to_string(bank) + ", which has an open row");
        if (row >> s_.row_bits) return fail("ACTIVE of a row that does not exist");
        least("tRP", s_.tRP, b.precharged, "PRECHARGE");
        least("tRC", s_.tRC, b.activated, "ACTIVE of the same bank");
        least("tRRD", s_.tRRD, last_active_, "ACTIVE of another bank");
        b.open = true;
        b.row = row;
        b.activated = last_active_ = cycle_;
    }

    void column(const SdramPins& pins, bool write) {
        Bank& b = banks_[pins.ba];
        if (pins.a >> 10 & 1) return fail(std::string(command_) + " with auto precharge: not used");
        if (!b.open) {
            return fail(std::string(command_) + " in bank " + std::to_string(pins.ba) +
                        ", which has no open row");
        }
        if (pins.a >> s_.column_bits) return fail("the column does not exist");
        least("tRCD", s_.tRCD, b.activated, "ACTIVE");
        if (cycle_ < burst_end_) return fail(std::string(command_) + " cuts the burst before it");
        burst_end_ = cycle_ + burst_;
        const uint64_t row = uint64_t{b.row * kBanks + pins.ba} << s_.column_bits;
        for (uint32_t k = 0; k < burst_; ++k) {
            // A burst wraps inside of its block.
            const uint32_t place = (pins.a & ~(burst_ - 1)) | ((pins.a + k) & (burst_ - 1));
            if (write) {
                writes_.push_back({cycle_ + k, row | place, pins.ba});
            } else {
                reads_.push_back({cycle_ + s_.cas_latency + k, row | place, 0});
            }
        }
        (write ? b.written : b.read) = cycle_ + burst_ - 1;
        if (write) write_word(pins);
    }

    void precharge(bool all, uint32_t bank) {
        for (uint32_t k = all ? 0 : bank; k < (all ? kBanks : bank + 1); ++k) {
            Bank& b = banks_[k];
            if (b.open) {
                least("tRAS", s_.tRAS, b.activated, "ACTIVE");
                if (cycle_ <= b.read) return fail("PRECHARGE cuts a burst that is being read");
                if (cycle_ <= b.written) return fail("PRECHARGE cuts a burst that is being written");
                least("tWR", s_.tWR, b.written, "the last word written");
                b.precharged = cycle_;
            }
            b.open = false;
        }
        if (all) precharged_all_ = cycle_;
    }

    void idle() {
        if (precharged_all_ == kLongAgo) {
            return fail(std::string(command_) + " before any PRECHARGE of all banks");
        }
        for (const Bank& b : banks_) {
            if (b.open) return fail(std::string(command_) + " while a row is open");
            least("tRP", s_.tRP, b.precharged, "PRECHARGE");
        }
        least("tRP", s_.tRP, precharged_all_, "PRECHARGE of all banks");
    }

    void refresh() {
        idle();
        for (const Bank& b : banks_) least("tRC", s_.tRC, b.activated, "ACTIVE");
        uint64_t& oldest = refreshed_[refresh_count_ % s_.refreshes];
        const double window = s_.refreshes * s_.tREFI;
        if (mode_loaded_ && oldest && since(oldest) > window) {
            fail("a row was refreshed later than the data sheet's refresh time allows");
        }
        oldest = last_refresh_ = cycle_;
        ++refresh_count_;
    }

    void load_mode(uint32_t bank, uint32_t mode) {
        idle();
        if (refresh_count_ < s_.initial_refreshes) {
            return fail("LOAD MODE REGISTER before enough AUTO REFRESH commands");
        }
        const uint32_t length = mode & 7, latency = mode >> 4 & 7;
        if (bank || mode >> 7) return fail("reserved bits of the mode register, or single writes");
        if (mode >> 3 & 1) return fail("interleaved bursts: not used here");
        if (length > 3) return fail("a burst length that is reserved, or full pages");
        if (latency != s_.cas_latency) {
            return fail("CAS latency " + std::to_string(latency) + " instead of " +
                        std::to_string(s_.cas_latency));
        }
        burst_ = 1u << length;
        mode_loaded_ = cycle_;
    }

    // Words that the chip drives in this cycle. DQM masks what comes two cycles later.
    void drive() {
        drove_ = driving_;
        driving_ = !reads_.empty() && reads_.front().cycle == cycle_;
        while (!arriving_.empty() && arriving_.front().cycle <= cycle_) arriving_.pop_front();
        if (mode_loaded_ && since(last_refresh_) > (kPostponed + 1) * s_.tREFI) {
            fail("no AUTO REFRESH for nine times tREFI");
        }
        if (driving_) reads_.pop_front();
        // Looked up now, for the cycle that follows the delay.
        if (!reads_.empty() && reads_.front().cycle == cycle_ + 1) {
            Word word = reads_.front();
            std::memcpy(&word.value, data_ + word.index * s_.data_bytes, s_.data_bytes);
            for (uint32_t lane = 0; lane < s_.data_bytes; ++lane) {
                if (masks_[(cycle_ + 2) % 3] >> lane & 1) word.value ^= 0x5Au << 8 * lane;
            }
            word.cycle += s_.delay;
            arriving_.push_back(word);
        }
    }

    void write_word(const SdramPins& pins) {
        if (writes_.empty() || writes_.front().cycle != cycle_) return;
        if (!pins.dq_oe) fail("WRITE, and nobody drives the data");
        for (uint32_t lane = 0; lane < s_.data_bytes; ++lane) {
            if (!(pins.dqm >> lane & 1)) {
                data_[writes_.front().index * s_.data_bytes + lane] = uint8_t(pins.dq >> 8 * lane);
            }
        }
        writes_.pop_front();
    }

    SdramSettings s_;
    uint8_t* data_;
    std::string fault_;
    const char* command_ = "";
    bool cke_ = false, driving_ = false, drove_ = false;
    uint32_t burst_ = 0, masks_[3] = {};
    uint64_t cycle_ = 0, begun_ = 0, mode_loaded_ = 0, last_refresh_ = kLongAgo,
             last_active_ = kLongAgo, precharged_all_ = kLongAgo, burst_end_ = 0,
             refresh_count_ = 0;
    std::vector<uint64_t> refreshed_;
    Bank banks_[kBanks];
    std::deque<Word> reads_, writes_, arriving_;
};
