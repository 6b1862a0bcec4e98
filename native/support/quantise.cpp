// Loops run over the columns, all of them whatever is wanted: compilers make vectors of that.
#include "support/quantise.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "support/bf16.h"

namespace openmoe {

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer

// As float: -127 to 127, or 0 to 15. `poison` is NaN in a column that has a number that is not finite, else 0.
template <int Length>
struct Quantised {
  uint16_t scales[kPanel];
  float q[Length][kPanel];
};

template <int Length>
void find_range(const float (*x)[kPanel], float* low, float* high, float* poison) {
  for (int c = 0; c < kPanel; ++c) low[c] = high[c] = poison[c] = 0;
  for (int k = 0; k < Length; ++k)
    for (int c = 0; c < kPanel; ++c) {
      low[c] = x[k][c] < low[c] ? x[k][c] : low[c];
      high[c] = x[k][c] > high[c] ? x[k][c] : high[c];
      poison[c] += 0 * x[k][c];
    }
}

template <int Length>
void quantise_int8(const float (*x)[kPanel], Quantised<Length>& to) {
  float low[kPanel], high[kPanel], poison[kPanel], inverse[kPanel];
  find_range<Length>(x, low, high, poison);
  for (int c = 0; c < kPanel; ++c) {
    const bf16 scale = to_bf16(std::max(-low[c], high[c]) / 127 + poison[c]);
    to.scales[c] = scale.bits;
    inverse[c] = to_float(scale) > std::numeric_limits<float>::min() ? 1 / to_float(scale) : 0.0f;
  }
  for (int k = 0; k < Length; ++k)
    for (int c = 0; c < kPanel; ++c) {
      const float q = x[k][c] * inverse[c] + kMagic - kMagic;
      to.q[k][c] = q < -127 ? -127.0f : q > 127 ? 127.0f : q;  // NaN stays, and is cleared by pack_words
    }
}

// Codes of scales are 12 bits, in the order of their values.
constexpr uint16_t code_above(float scale) {
  return static_cast<uint16_t>(std::min<uint32_t>((std::bit_cast<uint32_t>(scale) + 0x7ffff) >> 19, 0xfef));
}
constexpr float scale_of(uint16_t code) { return int4_scale(static_cast<uint16_t>(code << 4)); }

template <int Length>
void quantise_int4(const float (*x)[kPanel], Quantised<Length>& to) {
  // From the scale that spans the whole range downwards: cutting off the extremes a little makes the rest finer.
  constexpr int kCandidates = 5;
  float low[kPanel], high[kPanel], poison[kPanel], best[kPanel], scale[kPanel], zero[kPanel], error[kPanel];
  float q[Length][kPanel];
  find_range<Length>(x, low, high, poison);
  std::fill_n(best, kPanel, std::numeric_limits<float>::infinity());
  for (int candidate = 0; candidate < kCandidates; ++candidate) {
    uint16_t word[kPanel];
    float inverse[kPanel];
    for (int c = 0; c < kPanel; ++c) {
      const int code = std::max(code_above((high[c] - low[c]) / 15) - candidate, 0);
      scale[c] = scale_of(static_cast<uint16_t>(code));
      inverse[c] = scale[c] > std::numeric_limits<float>::min() ? 1 / scale[c] : 0.0f;
      const float middle = 7.5f - 0.5f * (low[c] + high[c]) * inverse[c] + kMagic - kMagic;
      zero[c] = middle < 0 ? 0.0f : middle > 15 ? 15.0f : middle;
      word[c] = static_cast<uint16_t>(code << 4 | (zero[c] >= 0 ? static_cast<int>(zero[c]) : 0));
      error[c] = 0;
    }
    for (int k = 0; k < Length; ++k)
      for (int c = 0; c < kPanel; ++c) {
        const float level = x[k][c] * inverse[c] + zero[c] + kMagic - kMagic;
        q[k][c] = level < 0 ? 0.0f : level > 15 ? 15.0f : level;
        const float miss = x[k][c] - scale[c] * (q[k][c] - zero[c]);
        error[c] += miss * miss;
      }
    for (int c = 0; c < kPanel; ++c) {
      if (!(error[c] < best[c]) && candidate > 0) continue;
      best[c] = error[c];
      to.scales[c] = word[c];
      for (int k = 0; k < Length; ++k) to.q[k][c] = q[k][c];
    }
  }
  constexpr uint16_t kNaNScale = 0xff80;
  for (int c = 0; c < kPanel; ++c)
    if (!(poison[c] == 0)) to.scales[c] = kNaNScale;
}

template <int PerWord, int Length>
void pack_words(const Quantised<Length>& from, int bias, int columns, uint32_t* words) {
  for (int k = 0; k < Length; k += PerWord, words += kPanel) {
    uint32_t packed[kPanel] = {};
    for (int i = 0; i < PerWord; ++i) {
      const int shift = i < 4 ? 8 * i : 8 * (i - 4) + 4;
      for (int c = 0; c < kPanel; ++c) {
        const float q = from.q[k + i][c] == from.q[k + i][c] ? from.q[k + i][c] : 0.0f;
        packed[c] |= static_cast<uint32_t>(static_cast<int32_t>(q) + bias) << shift;
      }
    }
    std::memcpy(words, packed, columns * sizeof(uint32_t));
  }
}

}  // namespace

void quantise_group(DType dtype, const float (*block)[kPanel], int columns, std::byte* group, int lane) {
  auto* scales = reinterpret_cast<uint16_t*>(group);
  auto* words = reinterpret_cast<uint32_t*>(scales + kPanel);
  const auto write = [&](const auto& quantised, auto per_word, int bias) {
    std::memcpy(scales + lane, quantised.scales, columns * sizeof(uint16_t));
    pack_words<per_word()>(quantised, bias, columns, words + lane);
  };
  if (dtype == DType::int8) {
    Quantised<group_length(DType::int8)> quantised;
    quantise_int8(block, quantised);
    write(quantised, std::integral_constant<int, 4>{}, kInt8Zero);
  } else {
    Quantised<group_length(DType::int4)> quantised;
    quantise_int4(block, quantised);
    write(quantised, std::integral_constant<int, 8>{}, 0);
  }
}

}  // namespace openmoe
