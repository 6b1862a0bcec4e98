// Integer vectors of the instruction set a kernel is compiled for, as wide as a Vec (support/simd.h): what products of
// quantised weights need. The portable set has none: there quantised weights are widened to f32
// (support/panel_quant.h).
#pragma once

#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 2

using IntVec = __m512i;
inline IntVec int_zero() { return _mm512_setzero_si512(); }
inline IntVec int_set1(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline IntVec int_load(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void int_store(uint32_t* p, IntVec v) { _mm512_storeu_si512(p, v); }
inline IntVec int_load(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline IntVec bit_and(IntVec a, IntVec b) { return _mm512_and_si512(a, b); }
inline IntVec bit_or(IntVec a, IntVec b) { return _mm512_or_si512(a, b); }
inline IntVec sub16(IntVec a, IntVec b) { return _mm512_sub_epi16(a, b); }
template <int N>
inline IntVec shift_left(IntVec a) {
  return _mm512_slli_epi32(a, N);
}
template <int N>
inline IntVec shift_left16(IntVec a) {
  return _mm512_slli_epi16(a, N);
}
template <int N>
inline IntVec shift_right16(IntVec a) {
  return _mm512_srli_epi16(a, N);
}
template <int N>
inline IntVec shift_right16_signed(IntVec a) {
  return _mm512_srai_epi16(a, N);
}
inline Vec to_float(IntVec a) { return _mm512_cvtepi32_ps(a); }
inline Vec as_float(IntVec a) { return _mm512_castsi512_ps(a); }
// sum + the dot product of the two 16-bit numbers of each lane.
inline IntVec add_pair_products(IntVec sum, IntVec a, IntVec b) {
#if OPENMOE_ISA_LEVEL >= 3
  // Not the intrinsic: GCC 12 copies its sum to another register each time.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
// Rounded to the nearest integer; |v| < 2^15.
inline void store_int16(int16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
}
inline Vec abs(Vec v) { return _mm512_abs_ps(v); }

#elif OPENMOE_ISA_LEVEL == 1

using IntVec = __m256i;
inline IntVec int_zero() { return _mm256_setzero_si256(); }
inline IntVec int_set1(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline IntVec int_load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void int_store(uint32_t* p, IntVec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline IntVec int_load(const uint16_t* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline IntVec bit_and(IntVec a, IntVec b) { return _mm256_and_si256(a, b); }
inline IntVec bit_or(IntVec a, IntVec b) { return _mm256_or_si256(a, b); }
inline IntVec sub16(IntVec a, IntVec b) { return _mm256_sub_epi16(a, b); }
template <int N>
inline IntVec shift_left(IntVec a) {
  return _mm256_slli_epi32(a, N);
}
template <int N>
inline IntVec shift_left16(IntVec a) {
  return _mm256_slli_epi16(a, N);
}
template <int N>
inline IntVec shift_right16(IntVec a) {
  return _mm256_srli_epi16(a, N);
}
template <int N>
inline IntVec shift_right16_signed(IntVec a) {
  return _mm256_srai_epi16(a, N);
}
inline Vec to_float(IntVec a) { return _mm256_cvtepi32_ps(a); }
inline Vec as_float(IntVec a) { return _mm256_castsi256_ps(a); }
inline IntVec add_pair_products(IntVec sum, IntVec a, IntVec b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
inline void store_int16(int16_t* p, Vec v) {
  const __m256i n = _mm256_cvtps_epi32(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1)));
}
inline Vec abs(Vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

#endif

}  // namespace openmoe::OPENMOE_ISA
