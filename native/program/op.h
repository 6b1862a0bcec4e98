// What an op contract is made of. A contract is a plain struct: tensors, then sizes, then numbers. Its field list is
// the only description of the op: the binding fills the struct from it, the program checks byte sizes against it,
// and TypeScript learns the argument names from it. No other file has code per op.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "program/dtype.h"

namespace openmoe {

// A tensor the op reads. Null only where the contract says optional ('?'). constexpr is what lets GPU code call these.
struct In {
  const void* data;
  DType dtype;
  template <class T>
  constexpr const T* as() const {
    return static_cast<const T*>(data);
  }
  constexpr explicit operator bool() const { return data != nullptr; }
};

// A tensor the op writes.
struct Out {
  void* data;
  DType dtype;
  template <class T>
  constexpr T* as() const {
    return static_cast<T*>(data);
  }
  constexpr explicit operator bool() const { return data != nullptr; }
};

// A tensor the op updates in place (KV pages).
struct InOut : Out {};

// Weights in the backend's own packed layout (CPU: matmul/panel.h). dtype is that of the stored numbers.
struct Matrix : In {};

// Rows grouped by expert in the backend's own layout, as a Matrix is weights in it: what lies between moe_permute and
// moe_unpermute. On the CPU plain f32 rows, on a GPU bf16 tiles in which every expert starts at a whole tile.
struct PanelIn : In {};
struct PanelOut : Out {};

enum class FieldKind : uint8_t { in, out, inout, matrix, panel_in, panel_out, integer, number };

// `spec` of a tensor: "dtype[dim, dim, ...]", each dim a product or sum of integers and integer fields of the same
// struct, e.g. "f32[num_tokens, num_heads*head_dim]", "i32[num_experts+1]"; "f32|bf16[...]" allows either; a trailing
// '?' makes the tensor optional. A matrix reads "matrix[count, out_features, in_features]", one whose rows a backend
// may interleave "gate_up[count, 3*features, in_features]" (rows a, b, up), a panel "panel[num_rows, num_experts,
// features]".
struct Field {
  const char* name;
  FieldKind kind;
  uint32_t offset;
  const char* spec;
};

template <class T>
inline constexpr FieldKind kFieldKind = FieldKind::integer;
template <>
inline constexpr FieldKind kFieldKind<In> = FieldKind::in;
template <>
inline constexpr FieldKind kFieldKind<Out> = FieldKind::out;
template <>
inline constexpr FieldKind kFieldKind<InOut> = FieldKind::inout;
template <>
inline constexpr FieldKind kFieldKind<Matrix> = FieldKind::matrix;
template <>
inline constexpr FieldKind kFieldKind<PanelIn> = FieldKind::panel_in;
template <>
inline constexpr FieldKind kFieldKind<PanelOut> = FieldKind::panel_out;
template <>
inline constexpr FieldKind kFieldKind<float> = FieldKind::number;

// FIELD(RmsNorm, x, "f32[num_tokens, hidden_size]") or FIELD(RmsNorm, num_tokens)
#define FIELD(Contract, member, ...) \
  Field { #member, kFieldKind<decltype(Contract::member)>, offsetof(Contract, member), "" __VA_ARGS__ }

}  // namespace openmoe
