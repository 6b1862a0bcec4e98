// Integer vectors of the instruction set a kernel is compiled for, as wide as a Vec (support/simd.h): what products of
// quantised weights need. The portable set has none: there quantised weights are widened to f32
// (matmul/quant_matmul.h).
#pragma once

#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 2

using IntVec = __m512i;
inline IntVec int_zero() { return _mm512_setzero_si512(); }
inline IntVec int_set1(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline IntVec int_load(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline IntVec int_load(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline IntVec bit_and(IntVec a, IntVec b) { return _mm512_and_si512(a, b); }
template <int N>
inline IntVec shift_left(IntVec a) {
  return _mm512_slli_epi32(a, N);
}
template <int N>
inline IntVec shift_right16(IntVec a) {
  return _mm512_srli_epi16(a, N);
}
// Of 16-bit halves, added within a lane.
inline IntVec pair_products(IntVec a, IntVec b) { return _mm512_madd_epi16(a, b); }
inline Vec to_float(IntVec a) { return _mm512_cvtepi32_ps(a); }
inline Vec as_float(IntVec a) { return _mm512_castsi512_ps(a); }
inline Vec abs(Vec v) { return _mm512_abs_ps(v); }

#elif OPENMOE_ISA_LEVEL == 1

using IntVec = __m256i;
inline IntVec int_zero() { return _mm256_setzero_si256(); }
inline IntVec int_set1(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline IntVec int_load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline IntVec int_load(const uint16_t* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline IntVec bit_and(IntVec a, IntVec b) { return _mm256_and_si256(a, b); }
template <int N>
inline IntVec shift_left(IntVec a) {
  return _mm256_slli_epi32(a, N);
}
template <int N>
inline IntVec shift_right16(IntVec a) {
  return _mm256_srli_epi16(a, N);
}
inline IntVec pair_products(IntVec a, IntVec b) { return _mm256_madd_epi16(a, b); }
inline Vec to_float(IntVec a) { return _mm256_cvtepi32_ps(a); }
inline Vec as_float(IntVec a) { return _mm256_castsi256_ps(a); }
inline Vec abs(Vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

#endif

#if OPENMOE_ISA_LEVEL >= 1

// Integers of x (|v| <= 127), kLanes of them, as bytes in order.
inline void store_bytes(uint32_t* p, Vec v) {
#if OPENMOE_ISA_LEVEL >= 2
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
#else
  const __m256i n = _mm256_cvtps_epi32(v);
  const __m128i x = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(x, x));
#endif
}

// Or, of four neighbours, the first and third as 16-bit halves of one word, the second and fourth of the next.
inline void store_even_odd(uint32_t* p, Vec v) {
#if OPENMOE_ISA_LEVEL >= 2
  const __m256i x = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xd8), 0xd8));
#else
  const __m256i n = _mm256_cvtps_epi32(v);
  const __m128i x = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shufflehi_epi16(_mm_shufflelo_epi16(x, 0xd8), 0xd8));
#endif
}

// Not intrinsics in what follows: GCC 12 copies the sum of vpdpbusd to another register each time, and adds up the
// products of neither of the others in turn, but in a tree whose parts it then keeps in memory.
#if OPENMOE_ISA_LEVEL >= 3
// sum + the dot product of four unsigned and four signed bytes, in each lane.
inline void add_byte_products(IntVec& sum, IntVec bytes, IntVec x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(x));
}
#else
// Adds the products of 16-bit halves to sums of 32 bits, two a lane.
inline void add_half_products(IntVec& sum, IntVec halves, IntVec x) {
  IntVec products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(halves), "v"(x));
}
// Adds the products of unsigned and signed bytes to sums of 16 bits, two each.
inline void add_byte_products16(IntVec& sum, IntVec bytes, IntVec x) {
  IntVec products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(bytes), "v"(x));
}
#endif
#endif

}  // namespace openmoe::OPENMOE_ISA
