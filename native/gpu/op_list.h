// The ops that have a GPU kernel: one line per native/ops/<op>.cu, with its contract (tests/architecture.test.ts).
#pragma once

#include "ops/grouped_gemm.h"
#include "ops/grouped_gemm_swiglu.h"
#include "ops/moe_gating.h"
#include "ops/moe_permute.h"
#include "ops/moe_router.h"
#include "ops/moe_routing.h"
#include "ops/moe_unpermute.h"

#define OPENMOE_GPU_OPS(X)                  \
  X(moe_router, MoeRouter)                  \
  X(moe_gating, MoeGating)                  \
  X(moe_routing, MoeRouting)                \
  X(moe_permute, MoePermute)                \
  X(grouped_gemm_swiglu, GroupedGemmSwiglu) \
  X(grouped_gemm, GroupedGemm)              \
  X(moe_unpermute, MoeUnpermute)
