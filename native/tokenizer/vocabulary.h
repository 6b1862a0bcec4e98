// The checked pieces of a Unigram model: id <-> piece, the trie the segmentation walks, and the scores it adds up.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "double_array.h"
#include "model_data.h"

namespace openmoe {

class Vocabulary {
 public:
  // Throws TokenizerError for what SentencePiece refuses as well: empty or doubled pieces, no <unk>, missing byte
  // pieces.
  explicit Vocabulary(const ModelData& data);
  Vocabulary(const Vocabulary&) = delete;  // added pieces point into reserved_
  Vocabulary& operator=(const Vocabulary&) = delete;

  // Gives `text` the row `id`: an existing piece (which must have this text) or a row after the model's own.
  // Rows left between stay empty. Special tokens are invisible in decoded text, others are printed.
  void add_token(std::string_view text, std::int32_t id, bool special);

  std::int32_t size() const { return static_cast<std::int32_t>(pieces_.size()); }
  const Piece& piece(std::int32_t id) const { return pieces_[id]; }
  std::int32_t find(std::string_view text) const;  // -1: no such piece
  std::int32_t unk_id() const { return unk_id_; }
  bool byte_fallback() const { return byte_fallback_; }
  std::int32_t byte_id(unsigned char byte) const { return byte_ids_[byte]; }
  // The byte that a piece of type kByte stands for.
  static unsigned char byte_of(std::string_view piece);

  const PieceTrie& trie() const { return trie_; }
  const PieceTrie& user_defined() const { return user_defined_; }
  float unk_score() const { return min_score_ - 10.0f; }
  float max_score() const { return max_score_; }

 private:
  void check(const Piece& piece, std::int32_t id);

  std::shared_ptr<const std::string> storage_;  // pieces point into it
  std::vector<Piece> pieces_;
  PieceTrie trie_;          // normal, user-defined and unused pieces: all that segmentation may meet
  PieceTrie user_defined_;  // what normalisation must leave alone
  std::unordered_map<std::string, std::int32_t> reserved_;  // control, unknown, byte and added pieces
  std::array<std::int32_t, 256> byte_ids_;
  std::int32_t unk_id_ = -1;
  bool byte_fallback_;
  float min_score_, max_score_;
};

}  // namespace openmoe
