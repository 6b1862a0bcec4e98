// wgmma.mma_async.m64nNk16, both operands from shared memory ("Asynchronous Warpgroup Level Matrix Instructions"). Its
// last two numbers say which operands are MN-major. The operand list has to be spelled out for each N, so it is put
// together from pieces of four.
#pragma once

namespace openmoe::gpu {

#define OPENMOE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OPENMOE_D16(i) OPENMOE_D4(i), OPENMOE_D4(i + 4), OPENMOE_D4(i + 8), OPENMOE_D4(i + 12)
#define OPENMOE_N0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define OPENMOE_N16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OPENMOE_N32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define OPENMOE_N48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// registers: names of d in the text; operands: what follows them there. The predicate is true: add to d.
#define OPENMOE_WGMMA(n, registers, operands, ...)                                                 \
  GPU_HOPPER_ASM("{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" #n       \
                 "k16.f32.bf16.bf16 {" registers "}, " operands "; }" : __VA_ARGS__ : "l"(a.bits), \
                 "l"(b.bits), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)))

template <int N, Major kA, Major kB>
GPU_DEVICE void wgmma(float (&d)[N / 2], MatrixDescriptor<kA> a, MatrixDescriptor<kB> b) {
  static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 96 || N == 128);
  static_assert(kB == Major::k || N % 64 == 0);
  if constexpr (N == 8)
    OPENMOE_WGMMA(8, "%0, %1, %2, %3", "%4, %5, p, 1, 1, %6, %7", OPENMOE_D4(0));
  else if constexpr (N == 16)
    OPENMOE_WGMMA(16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8, %9, p, 1, 1, %10, %11", OPENMOE_D4(0), OPENMOE_D4(4));
  else if constexpr (N == 32)
    OPENMOE_WGMMA(32, OPENMOE_N0, "%16, %17, p, 1, 1, %18, %19", OPENMOE_D16(0));
  else if constexpr (N == 64)
    OPENMOE_WGMMA(64, OPENMOE_N0 ", " OPENMOE_N16, "%32, %33, p, 1, 1, %34, %35", OPENMOE_D16(0), OPENMOE_D16(16));
  else if constexpr (N == 96)
    OPENMOE_WGMMA(96, OPENMOE_N0 ", " OPENMOE_N16 ", " OPENMOE_N32, "%48, %49, p, 1, 1, %50, %51", OPENMOE_D16(0),
                  OPENMOE_D16(16), OPENMOE_D16(32));
  else
    OPENMOE_WGMMA(128, OPENMOE_N0 ", " OPENMOE_N16 ", " OPENMOE_N32 ", " OPENMOE_N48, "%64, %65, p, 1, 1, %66, %67",
                  OPENMOE_D16(0), OPENMOE_D16(16), OPENMOE_D16(32), OPENMOE_D16(48));
}

#undef OPENMOE_WGMMA
#undef OPENMOE_D4
#undef OPENMOE_D16
#undef OPENMOE_N0
#undef OPENMOE_N16
#undef OPENMOE_N32
#undef OPENMOE_N48

}  // namespace openmoe::gpu
