// Float vectors of the instruction set a kernel is compiled for. Kernel sources are compiled once per instruction set
// (CMakeLists.txt) with OPENMOE_ISA as their namespace, so everything here exists once per set. Of kernels, no
// other file has intrinsics but support/simd_int.h, and the few lines of matmul/float_matmul.h that need a whole
// instruction.
//
// Every reduction has one order, fixed by the length alone: results do not depend on batch, threads or neighbours.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "support/bf16.h"

#if OPENMOE_ISA_LEVEL >= 1
#include <immintrin.h>
#endif

namespace openmoe::OPENMOE_ISA {

struct Full {};  // all lanes
struct Tail {    // the first n lanes; loads fill the rest with zero
  int n;
};

#if OPENMOE_ISA_LEVEL >= 2

inline constexpr int kLanes = 16;
using Vec = __m512;
inline __mmask16 mask_of(Tail t) { return static_cast<__mmask16>((1u << t.n) - 1); }
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p, Full = {}) { return _mm512_loadu_ps(p); }
inline Vec load(const float* p, Tail t) { return _mm512_maskz_loadu_ps(mask_of(t), p); }
inline void store(float* p, Vec v, Full = {}) { _mm512_storeu_ps(p, v); }
inline void store(float* p, Vec v, Tail t) { _mm512_mask_storeu_ps(p, mask_of(t), v); }
inline Vec widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
inline Vec load(const bf16* p, Full = {}) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load(const bf16* p, Tail t) { return widen(_mm256_maskz_loadu_epi16(mask_of(t), p)); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
inline float reduce_add(Vec v) { return _mm512_reduce_add_ps(v); }
inline float reduce_max(Vec v) { return _mm512_reduce_max_ps(v); }
inline bool any_nan(Vec v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }
inline bool all_below(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ) == 0; }  // NaN is below nothing
inline Vec round_even(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for integral n in [-126, 127]
inline Vec scale(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
// kLanes neighbouring (even k, odd k) pairs of a bf16 panel, widened.
inline void load_pairs(const bf16* p, Vec& even, Vec& odd) {
  const __m512i pairs = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

#elif OPENMOE_ISA_LEVEL == 1

inline constexpr int kLanes = 8;
using Vec = __m256;
inline __m256i mask_of(Tail t) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(t.n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p, Full = {}) { return _mm256_loadu_ps(p); }
inline Vec load(const float* p, Tail t) { return _mm256_maskload_ps(p, mask_of(t)); }
inline void store(float* p, Vec v, Full = {}) { _mm256_storeu_ps(p, v); }
inline void store(float* p, Vec v, Tail t) { _mm256_maskstore_ps(p, mask_of(t), v); }
inline Vec widen(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
inline Vec load(const bf16* p, Full = {}) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec load(const bf16* p, Tail t) {
  bf16 buffer[8] = {};
  std::memcpy(buffer, p, t.n * sizeof(bf16));
  return load(buffer);
}
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline float reduce_add(Vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(Vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline bool any_nan(Vec v) { return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0; }
inline bool all_below(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ)) == 0; }
inline Vec round_even(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale(Vec x, Vec n) {
  return mul(
      x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
inline void load_pairs(const bf16* p, Vec& even, Vec& odd) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

#else  // portable: the compiler's own 4-lane vectors (SSE2 on x86-64, NEON on arm64)

inline constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));
inline Vec zero() { return Vec{}; }
inline Vec set1(float x) { return Vec{x, x, x, x}; }
inline Vec load(const float* p, Full = {}) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec load(const float* p, Tail t) {
  Vec v{};
  std::memcpy(&v, p, t.n * sizeof(float));
  return v;
}
inline void store(float* p, Vec v, Full = {}) { std::memcpy(p, &v, sizeof v); }
inline void store(float* p, Vec v, Tail t) { std::memcpy(p, &v, t.n * sizeof(float)); }
inline Vec load(const bf16* p, Full = {}) {
  return Vec{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline Vec load(const bf16* p, Tail t) {
  bf16 buffer[4] = {};
  std::memcpy(buffer, p, t.n * sizeof(bf16));
  return load(buffer);
}
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }  // b when either is NaN, as the x86 instructions do
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline float reduce_add(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float reduce_max(Vec v) { return std::fmax(std::fmax(v[0], v[2]), std::fmax(v[1], v[3])); }
inline bool any_nan(Vec v) { return reduce_add(v != v ? set1(1.0f) : zero()) > 0; }
inline bool all_below(Vec a, Vec b) { return reduce_add(a < b ? zero() : set1(1.0f)) == 0; }
inline Vec round_even(Vec v) {
  const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it leaves no bits for a fraction
  return v + magic - magic;
}
inline Vec scale(Vec x, Vec n) {
  const IntVec bits = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return mul(x, (Vec)bits);
}
inline void load_pairs(const bf16* p, Vec& even, Vec& odd) {
  IntVec pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  const IntVec low = pairs << 16, high = pairs & static_cast<int32_t>(0xffff0000u);
  even = (Vec)low;
  odd = (Vec)high;
}

#endif

// f(i, Full{}) for every whole vector of [0, n), then once f(i, Tail{left}) if something is left.
template <class F>
inline void for_vectors(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, Tail{static_cast<int>(n - i)});
}

// Four chains of fused multiply-adds, added at the end.
inline float dot(const float* x, const float* y, int64_t n) {
  Vec sum[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int u = 0; u < 4; ++u) sum[u] = fma(load(x + i + u * kLanes), load(y + i + u * kLanes), sum[u]);
  for_vectors(n - i,
              [&](int64_t j, auto lanes) { sum[0] = fma(load(x + i + j, lanes), load(y + i + j, lanes), sum[0]); });
  return reduce_add(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

// e^x within 2 ulp in [-87, 88]; below and above it stays at the ends of that range, NaN stays NaN.
// Range reduction to |r| <= ln(2)/2 and the polynomial of Cephes expf.
inline Vec exp(Vec x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));
  const Vec n = round_even(mul(x, set1(1.44269504088896341f)));
  Vec r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  return scale(p, n);
}

// Rows that make a chunk worth handing to another thread: about 16k numbers, 10 microseconds of a simple op.
inline int64_t rows_per_chunk(int64_t row_length) {
  constexpr int64_t kNumbers = 16384;
  return row_length >= kNumbers ? 1 : kNumbers / (row_length > 0 ? row_length : 1);
}

}  // namespace openmoe::OPENMOE_ISA
