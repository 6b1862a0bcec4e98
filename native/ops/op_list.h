// Every op of the package: its name (file, kernel function, TypeScript binding) and its contract.
#pragma once

#include "ops/add.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/grouped_gemm.h"
#include "ops/grouped_gemm_swiglu.h"
#include "ops/kv_append.h"
#include "ops/linear.h"
#include "ops/linear_argmax.h"
#include "ops/linear_qkv.h"
#include "ops/moe_gating.h"
#include "ops/moe_permute.h"
#include "ops/moe_router.h"
#include "ops/moe_routing.h"
#include "ops/moe_unpermute.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/sample.h"
#include "ops/swiglu.h"

#define OPENMOE_OPS(X)                      \
  X(embedding, Embedding)                   \
  X(rms_norm, RmsNorm)                      \
  X(linear, Linear)                         \
  X(linear_argmax, LinearArgmax)            \
  X(linear_qkv, LinearQkv)                  \
  X(rope, Rope)                             \
  X(kv_append, KvAppend)                    \
  X(attention, Attention)                   \
  X(add, Add)                               \
  X(swiglu, Swiglu)                         \
  X(moe_router, MoeRouter)                  \
  X(moe_gating, MoeGating)                  \
  X(moe_routing, MoeRouting)                \
  X(moe_permute, MoePermute)                \
  X(grouped_gemm, GroupedGemm)              \
  X(grouped_gemm_swiglu, GroupedGemmSwiglu) \
  X(moe_unpermute, MoeUnpermute)            \
  X(sample, Sample)
