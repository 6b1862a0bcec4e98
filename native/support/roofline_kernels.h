// The loops of support/roofline.cpp, for every instruction set this compiler knows, and which of them an instruction
// set has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace openmoe {

namespace {

// Makes the compiler believe that someone looks at `value`.
template <class T>
void escape(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

// And that someone may have changed it: chains that start equal would be computed once.
template <class T>
void make_opaque(T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

// Kernels: read [p, p + bytes) as `streams` interleaved streams; copy; `steps` rounds of kChains independent
// multiply-adds, enough chains to hide the latency and few enough to stay in registers.
using ReadKernel = void (*)(const std::byte* p, size_t bytes, int streams);
using CopyKernel = void (*)(std::byte* to, const std::byte* from, size_t bytes);
using FmaKernel = void (*)(int64_t steps);

typedef float Float4 __attribute__((vector_size(16)));
typedef int64_t Int2 __attribute__((vector_size(16)));

void read_portable(const std::byte* p, size_t bytes, int streams) {
  const size_t part = bytes / streams / 64 * 64;
  Int2 sum[4] = {};
  for (size_t i = 0; i < part; i += 64)
    for (int s = 0; s < streams; ++s) {
      const auto* from = reinterpret_cast<const Int2*>(p + s * part + i);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) sum[k] ^= from[k];
    }
  escape(sum);
}
void copy_portable(std::byte* to, const std::byte* from, size_t bytes) { std::memcpy(to, from, bytes); }
void fma_portable(int64_t steps) {
  constexpr int kChains = 12;
  const Float4 a = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
  Float4 sum[kChains] = {};
  make_opaque(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) sum[k] = sum[k] * a + a;
  escape(sum);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void read_avx2(const std::byte* p, size_t bytes, int streams) {
  const size_t part = bytes / streams / 256 * 256;
  __m256i sum[8] = {};
  for (size_t i = 0; i < part; i += 256)
    for (int s = 0; s < streams; ++s) {
      const auto* from = reinterpret_cast<const __m256i*>(p + s * part + i);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) sum[k] = _mm256_xor_si256(sum[k], _mm256_load_si256(from + k));
    }
  escape(sum);
}
__attribute__((target("avx2"))) void copy_avx2(std::byte* to, const std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 128)
#pragma GCC unroll 4
    for (size_t k = 0; k < 128; k += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + k),
                          _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + k)));
  _mm_sfence();
}
__attribute__((target("avx2,fma"))) void fma_avx2(int64_t steps) {
  constexpr int kChains = 12;
  const __m256 a = _mm256_set1_ps(1e-3f);
  __m256 sum[kChains] = {};
  make_opaque(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) sum[k] = _mm256_fmadd_ps(a, a, sum[k]);
  escape(sum);
}

__attribute__((target("avx512f"))) void read_avx512(const std::byte* p, size_t bytes, int streams) {
  const size_t part = bytes / streams / 512 * 512;
  __m512i sum[8] = {};
  for (size_t i = 0; i < part; i += 512)
    for (int s = 0; s < streams; ++s) {
      const std::byte* from = p + s * part + i;
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(from + k * 64));
    }
  escape(sum);
}
__attribute__((target("avx512f"))) void copy_avx512(std::byte* to, const std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 256)
#pragma GCC unroll 4
    for (size_t k = 0; k < 256; k += 64)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + k), _mm512_load_si512(from + i + k));
  _mm_sfence();
}
__attribute__((target("avx512f"))) void fma_avx512(int64_t steps) {
  constexpr int kChains = 24;
  const __m512 a = _mm512_set1_ps(1e-3f);
  __m512 sum[kChains] = {};
  make_opaque(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 24
    for (int k = 0; k < kChains; ++k) sum[k] = _mm512_fmadd_ps(a, a, sum[k]);
  escape(sum);
}
__attribute__((target("avx512f,avx512bf16"))) void dot_avx512_bf16(int64_t steps) {
  constexpr int kChains = 24;
  const auto a = (__m512bh)_mm512_set1_epi32(0x3a833a83);  // 1e-3 twice
  __m512 sum[kChains] = {};
  make_opaque(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 24
    for (int k = 0; k < kChains; ++k) sum[k] = _mm512_dpbf16_ps(sum[k], a, a);
  escape(sum);
}
// Products of u8 and s8, summed in i32 four at a time.
__attribute__((target("avx2"))) void dot_avx2_int8(int64_t steps) {
  constexpr int kChains = 12;
  const __m256i a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  __m256i start[kChains] = {}, sum[kChains];
  make_opaque(start);
#pragma GCC unroll 12
  for (int k = 0; k < kChains; ++k) sum[k] = start[k];
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k)  // the sum is an operand too, or the products would be computed once
      sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(_mm256_maddubs_epi16(sum[k], a), ones));
#pragma GCC unroll 12
  for (int k = 0; k < kChains; ++k) start[k] = sum[k];
  escape(start);
}
__attribute__((target("avx512f,avx512vnni"))) void dot_avx512_int8(int64_t steps) {
  constexpr int kChains = 24;
  const __m512i a = _mm512_set1_epi8(3);
  __m512i start[kChains] = {}, sum[kChains];
  make_opaque(start);
  // A copy whose address nobody has: integer vectors would be stored to memory at every step otherwise.
#pragma GCC unroll 24
  for (int k = 0; k < kChains; ++k) sum[k] = start[k];
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 24
    for (int k = 0; k < kChains; ++k) sum[k] = _mm512_dpbusd_epi32(sum[k], a, a);
#pragma GCC unroll 24
  for (int k = 0; k < kChains; ++k) start[k] = sum[k];
  escape(start);
}
#endif

struct Kernels {
  ReadKernel read = read_portable;
  CopyKernel copy = copy_portable;
  FmaKernel f32 = fma_portable, bf16 = fma_portable, int8 = fma_portable;
  double f32_flops_per_step = 12 * 4 * 2, bf16_flops_per_step = 12 * 4 * 2, int8_flops_per_step = 12 * 4 * 2;
  const char *memory_name = "portable", *f32_name = "portable mul, add", *bf16_name = "widened to f32",
             *int8_name = "widened to f32";
};

// The best of an instruction set of the kernels: portable, avx2, avx512 or avx512_bf16, which this CPU must have.
// Reading and copying are not what they differ in, and use the best there is.
Kernels kernels_of(std::string_view isa) {
  Kernels k;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2"), avx512 = __builtin_cpu_supports("avx512f");
  if (avx2) k.read = read_avx2, k.copy = copy_avx2, k.memory_name = "avx2";
  if (avx512) k.read = read_avx512, k.copy = copy_avx512, k.memory_name = "avx512";
  if (isa != "portable" && avx2) {
    k.f32 = k.bf16 = fma_avx2, k.int8 = dot_avx2_int8;
    k.f32_flops_per_step = k.bf16_flops_per_step = 12 * 8 * 2, k.int8_flops_per_step = 12 * 32 * 2;
    k.f32_name = "avx2 vfmadd231ps", k.bf16_name = "avx2 vfmadd231ps, bf16 widened to f32";
    k.int8_name = "avx2 vpmaddubsw, vpmaddwd, vpaddd";
  }
  if (isa.starts_with("avx512") && avx512) {
    k.f32 = k.bf16 = fma_avx512;
    k.f32_flops_per_step = k.bf16_flops_per_step = 24 * 16 * 2;
    k.f32_name = "avx512 vfmadd231ps", k.bf16_name = "avx512 vfmadd231ps, bf16 widened to f32";
  }
  if (isa == "avx512_bf16" && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
    k.bf16 = dot_avx512_bf16, k.bf16_flops_per_step = 24 * 32 * 2, k.bf16_name = "avx512_bf16 vdpbf16ps";
    k.int8 = dot_avx512_int8, k.int8_flops_per_step = 24 * 64 * 2, k.int8_name = "avx512_vnni vpdpbusd";
  }
#else
  static_cast<void>(isa);
#endif
  return k;
}

}  // namespace

}  // namespace openmoe
