#include "double_array.h"

#include <algorithm>
#include <string>

#include "tokenizer_error.h"

namespace openmoe {
namespace {

constexpr std::uint32_t kBlock = 256;  // XOR with a byte stays inside an aligned block of 256 slots
constexpr int kMaxTries = 64;          // then a new block: bounds the time, costs a few free slots

// Comparing 16 bytes as two integers sorts 256,000 pieces much faster than memcmp on each pair.
struct SortKey {
  std::uint64_t first, second;
  std::uint32_t index;
};

std::uint64_t eight_bytes(std::string_view text, std::size_t from) {
  std::uint64_t packed = 0;
  for (std::size_t i = from; i < from + 8; ++i) {
    packed = packed << 8 | (i < text.size() ? static_cast<unsigned char>(text[i]) : 0);
  }
  return packed;
}

// Sorts the keys and copies their texts one after the other into `arena`: building reads them many times in this order.
void sort_keys(std::vector<TrieKey>& keys, std::string& arena) {
  std::vector<SortKey> order(keys.size());
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < keys.size(); ++i) {
    order[i] = {eight_bytes(keys[i].text, 0), eight_bytes(keys[i].text, 8), i};
    bytes += keys[i].text.size();
  }
  std::sort(order.begin(), order.end(), [&](const SortKey& a, const SortKey& b) {
    if (a.first != b.first) return a.first < b.first;
    if (a.second != b.second) return a.second < b.second;
    return keys[a.index].text < keys[b.index].text;
  });
  arena.reserve(bytes);  // the views below stay valid because it never grows
  std::vector<TrieKey> sorted(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const TrieKey& key = keys[order[i].index];
    sorted[i] = {std::string_view(arena.data() + arena.size(), key.text.size()), key.value};
    arena += key.text;
  }
  keys = std::move(sorted);
}

// Nodes of the trie over sorted keys. Throws TokenizerError when two keys are equal.
std::size_t count_nodes(const std::vector<TrieKey>& keys) {
  std::size_t nodes = 0;
  std::string_view before;
  for (const TrieKey& key : keys) {
    const auto differ = std::mismatch(before.begin(), before.end(), key.text.begin(), key.text.end());
    nodes += static_cast<std::size_t>(key.text.end() - differ.second);
    if (key.text == before) throw TokenizerError("piece '" + std::string(key.text) + "' is there twice");
    before = key.text;
  }
  return nodes;
}

}  // namespace

void PieceTrie::build(std::vector<TrieKey> keys) {
  std::string arena;
  sort_keys(keys, arena);
  nodes_.clear();
  nodes_.reserve(count_nodes(keys) * 9 / 8 + 2 * kBlock);  // about one slot in ten stays free
  nodes_.resize(kBlock);  // the root and nothing else: a leaf has base 0, and nothing here may look like its child
  first_free_ = 0;
  last_free_ = 0;

  struct Range {
    std::size_t begin, end, depth;  // keys [begin, end) share their first `depth` bytes, which lead to `node`
    std::uint32_t node;
  };
  std::vector<Range> todo{{0, keys.size(), 0, kRoot}};
  while (!todo.empty()) {
    Range r = todo.back();
    todo.pop_back();
    if (r.begin < r.end && keys[r.begin].text.size() == r.depth) nodes_[r.node].value = keys[r.begin++].value;
    if (r.begin == r.end) continue;

    unsigned char labels[kBlock];
    std::size_t starts[kBlock + 1];
    int count = 0;
    for (std::size_t i = r.begin; i < r.end; ++i) {
      const auto label = static_cast<unsigned char>(keys[i].text[r.depth]);
      if (count > 0 && labels[count - 1] == label) continue;
      starts[count] = i;
      labels[count++] = label;
    }
    starts[count] = r.end;

    const std::uint32_t base = place(r.node, labels, count);
    for (int c = 0; c < count; ++c) todo.push_back({starts[c], starts[c + 1], r.depth + 1, base ^ labels[c]});
  }
  for (Node& node : nodes_) {
    if (node.parent == kNone && &node != &nodes_[kRoot]) node = {};  // no links in what stayed free
  }
}

void PieceTrie::add_block() {
  const auto begin = static_cast<std::uint32_t>(nodes_.size());
  nodes_.resize(begin + kBlock);
  for (std::uint32_t slot = begin; slot < begin + kBlock; ++slot) {
    const auto last = static_cast<std::uint32_t>(last_free_);
    next_free(last) = slot;
    prev_free(slot) = last_free_;
    next_free(slot) = 0;
    last_free_ = static_cast<std::int32_t>(slot);
  }
}

// Finds a base under which all children of `node` fall on free slots, and takes them.
std::uint32_t PieceTrie::place(std::uint32_t node, const unsigned char* labels, int count) {
  const auto is_taken = [&](std::uint32_t slot) { return nodes_[slot].parent != kNone; };
  int tries = 0;
  std::uint32_t base = 0;
  for (std::uint32_t slot = first_free_; slot != 0 && tries < kMaxTries; slot = next_free(slot), ++tries) {
    const std::uint32_t candidate = slot ^ labels[0];
    if (std::none_of(labels + 1, labels + count, [&](unsigned char l) { return is_taken(candidate ^ l); })) {
      base = candidate;
      break;
    }
  }
  if (base == 0) {
    base = static_cast<std::uint32_t>(nodes_.size());
    add_block();
  }
  nodes_[node].base = base;
  for (int i = 0; i < count; ++i) {
    const std::uint32_t slot = base ^ labels[i];
    next_free(static_cast<std::uint32_t>(prev_free(slot))) = next_free(slot);
    prev_free(next_free(slot)) = prev_free(slot);
    nodes_[slot] = {0, node, -1};
  }
  return base;
}

std::int32_t PieceTrie::find(std::string_view key) const {
  std::uint32_t node = kRoot;
  for (const char c : key) {
    node = step(node, static_cast<unsigned char>(c));
    if (node == kNone) return -1;
  }
  return value(node);
}

std::size_t PieceTrie::longest_prefix(std::string_view text) const {
  std::size_t longest = 0;
  std::uint32_t node = kRoot;
  for (std::size_t i = 0; i < text.size(); ++i) {
    node = step(node, static_cast<unsigned char>(text[i]));
    if (node == kNone) break;
    if (value(node) >= 0) longest = i + 1;
  }
  return longest;
}

namespace {

// Darts-clone packs a unit as: label in bits 0-7, has_leaf in bit 8, offset above; the units of values have the top
// bit.
bool is_value(std::uint32_t unit) { return unit >> 31; }
std::uint32_t label(std::uint32_t unit) { return unit & (1u << 31 | 0xFF); }
bool has_leaf(std::uint32_t unit) { return unit >> 8 & 1; }
std::uint32_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

}  // namespace

void CharsmapTrie::load(std::string_view units, std::size_t num_values) {
  units_.resize(units.size() / 4);
  for (std::size_t i = 0; i < units_.size(); ++i) {
    std::uint32_t word = 0;
    for (int b = 3; b >= 0; --b) word = word << 8 | static_cast<unsigned char>(units[4 * i + b]);
    if (is_value(word) && (word & 0x7FFFFFFF) >= num_values) {
      throw TokenizerError("precompiled_charsmap: a replacement lies outside the table");
    }
    units_[i] = word;
  }
}

CharsmapTrie::Match CharsmapTrie::longest_prefix(std::string_view text) const {
  Match match;
  if (units_.empty()) return match;
  std::uint32_t at = offset(units_[0]);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size() || label(units_[at]) != byte) break;
    const std::uint32_t unit = units_[at];
    at ^= offset(unit);
    if (has_leaf(unit)) {
      if (at >= units_.size() || !is_value(units_[at])) break;
      match = {i + 1, units_[at] & 0x7FFFFFFF};
    }
  }
  return match;
}

}  // namespace openmoe
