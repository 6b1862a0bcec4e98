// Vectors of 16 bytes, as packing moves them: the same on every instruction set. Where SSE2 is there, which is every
// x86-64, they are written past the caches, and what they replace need not be read first.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace openmoe {

using Words = uint32_t __attribute__((vector_size(16)));

inline Words load_words(const void* from) {
  Words v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

#if defined(__SSE2__)

// To a place of 16 bytes. Not seen by other threads before end_writes().
inline void write_past_caches(Words v, uint32_t* to) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(v));
}
inline void end_writes() { _mm_sfence(); }

// a[0] b[0] a[1] b[1] ... of 16-bit halves: of the first four, and of the others.
inline Words zip_low(Words a, Words b) {
  return reinterpret_cast<Words>(_mm_unpacklo_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
inline Words zip_high(Words a, Words b) {
  return reinterpret_cast<Words>(_mm_unpackhi_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}

#else

inline void write_past_caches(Words v, uint32_t* to) { std::memcpy(to, &v, sizeof v); }
inline void end_writes() {}

inline Words zip(Words a, Words b, int first) {
  uint16_t x[8], y[8];
  std::memcpy(x, &a, sizeof x), std::memcpy(y, &b, sizeof y);
  Words v{};
  for (int i = 0; i < 4; ++i) v[i] = x[first + i] | uint32_t{y[first + i]} << 16;
  return v;
}
inline Words zip_low(Words a, Words b) { return zip(a, b, 0); }
inline Words zip_high(Words a, Words b) { return zip(a, b, 4); }

#endif

}  // namespace openmoe
