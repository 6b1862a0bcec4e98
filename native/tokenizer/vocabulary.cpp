#include "vocabulary.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "tokenizer_error.h"
#include "utf8.h"

namespace openmoe {
namespace {

constexpr std::size_t kMaxPieceBytes = 8000;     // SentencePiece's own limit
constexpr std::int32_t kMaxEmptyRows = 1 << 16;  // an id far beyond the pieces is a broken file, not a big vocabulary

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

bool is_byte_piece(std::string_view p) {
  return p.size() == 6 && p.starts_with("<0x") && p[5] == '>' && hex_digit(p[3]) >= 0 && hex_digit(p[4]) >= 0;
}

std::string quoted(std::string_view piece, std::int32_t id) {
  return "piece " + std::to_string(id) + " ('" +
         std::string(piece.substr(0, std::min(piece.find('\0'), std::size_t{40}))) + "')";
}

bool in_trie(PieceType type) {
  return type == PieceType::kNormal || type == PieceType::kUserDefined || type == PieceType::kUnused;
}

}  // namespace

unsigned char Vocabulary::byte_of(std::string_view piece) {
  return static_cast<unsigned char>(hex_digit(piece[3]) << 4 | hex_digit(piece[4]));
}

Vocabulary::Vocabulary(const ModelData& data)
    : storage_(data.storage),
      pieces_(data.pieces),
      byte_fallback_(data.byte_fallback),
      min_score_(FLT_MAX),
      // not -FLT_MAX: SentencePiece starts from the smallest positive float, and ties depend on it
      max_score_(FLT_MIN) {
  byte_ids_.fill(-1);
  std::vector<TrieKey> keys, user_defined;
  keys.reserve(pieces_.size());
  for (std::int32_t id = 0; id < size(); ++id) {
    const Piece& piece = pieces_[id];
    check(piece, id);
    if (piece.type == PieceType::kUserDefined) user_defined.push_back({piece.text, id});
    if (in_trie(piece.type)) {
      keys.push_back({piece.text, id});
    } else if (!reserved_.emplace(piece.text, id).second) {
      throw TokenizerError(quoted(piece.text, id) + " is there twice");
    }
  }
  if (unk_id_ < 0) throw TokenizerError("the model has no piece of type UNKNOWN");
  if (keys.empty()) throw TokenizerError("the model has no pieces for ordinary text");
  if (byte_fallback_ && std::count(byte_ids_.begin(), byte_ids_.end(), -1) > 0) {
    throw TokenizerError("byte_fallback is set, but not all of <0x00> ... <0xFF> are pieces");
  }
  trie_.build(std::move(keys));
  if (!user_defined.empty()) user_defined_.build(std::move(user_defined));
}

void Vocabulary::check(const Piece& piece, std::int32_t id) {
  const auto refuse = [&](const char* why) { throw TokenizerError(quoted(piece.text, id) + " " + why); };
  if (piece.text.empty()) refuse("is empty");
  if (piece.text.size() >= kMaxPieceBytes) refuse("is longer than 8000 bytes");
  if (piece.text.find('\0') != std::string_view::npos) refuse("contains a NUL character");
  if (!is_valid_utf8(piece.text)) refuse("is not UTF-8");
  if (!std::isfinite(piece.score)) refuse("has a score that is not finite");

  if (piece.type == PieceType::kNormal) {
    min_score_ = std::min(min_score_, piece.score);
    max_score_ = std::max(max_score_, piece.score);
  }
  if (piece.type == PieceType::kUnknown) {
    if (unk_id_ >= 0) refuse("is a second unknown piece");
    unk_id_ = id;
  }
  if (piece.type == PieceType::kByte) {
    if (!byte_fallback_) refuse("is a byte piece, but byte_fallback is not set");
    if (!is_byte_piece(piece.text)) refuse("is no byte piece: expected <0x00> ... <0xFF>");
    byte_ids_[byte_of(piece.text)] = id;
  }
}

void Vocabulary::add_token(std::string_view text, std::int32_t id, bool special) {
  if (text.empty() || text.find('\0') != std::string_view::npos)
    throw TokenizerError("an added token is empty or has a NUL");
  if (id < 0 || id > size() + kMaxEmptyRows) {
    throw TokenizerError("added token '" + std::string(text) + "' has id " + std::to_string(id) + ", the model has " +
                         std::to_string(size()) + " pieces");
  }
  const std::int32_t known = find(text);
  if (known == id) return;
  if (known >= 0 || (id < size() && !pieces_[id].text.empty())) {
    throw TokenizerError("added token '" + std::string(text) + "' has id " + std::to_string(id) +
                         (known >= 0 ? ", but is piece " + std::to_string(known)
                                     : ", but that is '" + std::string(pieces_[id].text) + "'"));
  }
  if (id >= size()) pieces_.resize(id + 1, {{}, 0.0f, PieceType::kControl});
  // A map's key never moves, so the piece can point at it.
  const auto entry = reserved_.emplace(text, id).first;
  pieces_[id] = {entry->first, 0.0f, special ? PieceType::kControl : PieceType::kUserDefined};
}

std::int32_t Vocabulary::find(std::string_view text) const {
  if (const auto it = reserved_.find(std::string(text)); it != reserved_.end()) return it->second;
  return trie_.find(text);
}

}  // namespace openmoe
