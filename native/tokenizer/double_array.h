// Two double-array tries: PieceTrie, which we build over the vocabulary, and CharsmapTrie, the ready-made one inside a
// precompiled_charsmap. In both the child of a node by byte b is one XOR and one comparison away.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace openmoe {

struct TrieKey {
  std::string_view text;
  std::int32_t value;  // >= 0
};

class PieceTrie {
 public:
  static constexpr std::uint32_t kRoot = 0;
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  // Keys are not empty. Equal keys: throws TokenizerError naming the first.
  void build(std::vector<TrieKey> keys);

  // The child of `node` by `byte`, or kNone.
  std::uint32_t step(std::uint32_t node, unsigned char byte) const {
    const std::uint32_t child = nodes_[node].base ^ byte;
    return nodes_[child].parent == node ? child : kNone;
  }
  // The value of the key that ends at `node`, or -1.
  std::int32_t value(std::uint32_t node) const { return nodes_[node].value; }

  std::int32_t find(std::string_view key) const;
  // Length of the longest key that starts `text`, or 0.
  std::size_t longest_prefix(std::string_view text) const;
  bool empty() const { return nodes_.empty(); }

 private:
  struct Node {
    std::uint32_t base = 0;        // 0 for a leaf: its "children" lie in block 0, whose parent is never this node
    std::uint32_t parent = kNone;  // kNone: the slot is free
    std::int32_t value = -1;
  };

  void add_block();
  std::uint32_t place(std::uint32_t node, const unsigned char* labels, int count);
  // Free slots form a ring through slot 0; the links lie in the fields that a free slot does not need.
  std::uint32_t& next_free(std::uint32_t slot) { return slot == 0 ? first_free_ : nodes_[slot].base; }
  std::int32_t& prev_free(std::uint32_t slot) { return slot == 0 ? last_free_ : nodes_[slot].value; }

  std::vector<Node> nodes_;
  std::uint32_t first_free_ = 0;
  std::int32_t last_free_ = 0;
};

// Layout of darts-clone 0.32, as stored by SentencePiece. The file is not trusted: steps outside the array end the
// search.
class CharsmapTrie {
 public:
  struct Match {
    std::size_t length = 0;   // of the matched prefix; 0: none
    std::uint32_t value = 0;  // offset of the replacement
  };

  // `units`: little-endian 32-bit words. Throws TokenizerError when a value is not below `num_values`.
  void load(std::string_view units, std::size_t num_values);
  Match longest_prefix(std::string_view text) const;

 private:
  std::vector<std::uint32_t> units_;
};

}  // namespace openmoe
