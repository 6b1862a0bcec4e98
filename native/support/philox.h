// Random numbers without state: Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011). A
// draw is a function of its key and counter alone, so neither neighbours nor the past of a sequence change it.
#pragma once

#include <cstdint>
#include <utility>

namespace openmoe {

// Uniform in [0, 1), 53 bits, for (key, counter); the upper half of the counter is zero.
constexpr double philox_uniform(std::pair<uint32_t, uint32_t> key, std::pair<uint32_t, uint32_t> counter) {
  uint32_t c0 = counter.first, c1 = counter.second, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p2 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p2 >> 32) ^ c1 ^ key.first;
    c1 = static_cast<uint32_t>(p2);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key.second;
    c3 = static_cast<uint32_t>(p0);
    key.first += 0x9E3779B9u;
    key.second += 0xBB67AE85u;
  }
  return static_cast<double>((uint64_t{c0} << 32 | c1) >> 11) * 0x1p-53;
}

// The test vector of the paper's code: key 0, counter 0 gives 6627e8d5 e169c58d ...
static_assert(philox_uniform({0, 0}, {0, 0}) == static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);

}  // namespace openmoe
