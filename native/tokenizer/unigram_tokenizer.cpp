#include "unigram_tokenizer.h"

#include <algorithm>

#include "tokenizer_error.h"
#include "utf8.h"

namespace openmoe {
namespace {

struct BestPath {  // the best segmentation of normalized[0, this position)
  float score = 0.0f;
  std::int32_t id = -1;         // its last piece
  std::int32_t starts_at = -1;  // where that piece starts; -1: not reached yet
};

// The order of the additions, and where they round to float, decide ties; so this follows SentencePiece's
// EncodeOptimized step by step: scores are added in double, kept in float, and only a strictly better one replaces.
std::vector<BestPath> viterbi(std::string_view text, const Vocabulary& vocabulary) {
  const PieceTrie& trie = vocabulary.trie();
  const std::size_t size = text.size();
  std::vector<BestPath> best(size + 1);
  const auto offer = [&](std::size_t start, std::size_t end, std::int32_t id, double score) {
    BestPath& at_end = best[end];
    if (at_end.starts_at != -1 && !(score > at_end.score)) return;
    at_end = {static_cast<float>(score), id, static_cast<std::int32_t>(start)};
  };

  for (std::size_t start = 0; start < size;) {
    const float so_far = best[start].score;
    const std::size_t char_end = std::min(start + one_char_len(static_cast<unsigned char>(text[start])), size);
    bool char_is_known = false;
    std::uint32_t node = PieceTrie::kRoot;
    for (std::size_t end = start; end < size;) {
      node = trie.step(node, static_cast<unsigned char>(text[end++]));
      if (node == PieceTrie::kNone) break;
      const std::int32_t id = trie.value(node);
      if (id < 0) continue;
      const Piece& piece = vocabulary.piece(id);
      if (piece.type == PieceType::kUnused) continue;
      // a user-defined piece gets a bonus so large that it always wins
      const double score = piece.type == PieceType::kUserDefined
                               ? static_cast<float>(end - start) * vocabulary.max_score() - 0.1
                               : piece.score;
      offer(start, end, id, score + so_far);
      char_is_known |= end == char_end;
    }
    if (!char_is_known) offer(start, char_end, vocabulary.unk_id(), vocabulary.unk_score() + so_far);
    start = char_end;
  }
  return best;
}

std::int32_t control_id(const Vocabulary& vocabulary, const std::string& piece) {
  const std::int32_t id = vocabulary.find(piece);
  return id >= 0 && vocabulary.piece(id).type == PieceType::kControl ? id : -1;
}

}  // namespace

UnigramTokenizer::UnigramTokenizer(const ModelData& data)
    : vocabulary_(data),
      normalizer_(data.normalizer, vocabulary_.user_defined()),
      unk_surface_(data.unk_surface),
      bos_id_(control_id(vocabulary_, data.bos_piece)),
      eos_id_(control_id(vocabulary_, data.eos_piece)),
      pad_id_(control_id(vocabulary_, data.pad_piece)) {
  if (!is_valid_utf8(unk_surface_)) throw TokenizerError("trainer_spec.unk_surface is not UTF-8");
}

std::vector<std::int32_t> UnigramTokenizer::encode(std::string_view text, bool with_dummy_prefix) const {
  const std::string normalized = normalizer_.normalize(text, with_dummy_prefix);
  const std::vector<BestPath> best = viterbi(normalized, vocabulary_);

  std::vector<std::int32_t> ids;  // from the end of the text to its start
  bool after_unk = false;
  for (std::int64_t end = static_cast<std::int64_t>(normalized.size()); end > 0; end = best[end].starts_at) {
    const bool is_unk = best[end].id == vocabulary_.unk_id();
    if (is_unk && vocabulary_.byte_fallback()) {
      for (std::int64_t i = end - 1; i >= best[end].starts_at; --i) {
        ids.push_back(vocabulary_.byte_id(static_cast<unsigned char>(normalized[i])));
      }
    } else if (!is_unk || !after_unk) {  // a run of unknown characters is one <unk>
      ids.push_back(best[end].id);
    }
    after_unk = is_unk;
  }
  std::reverse(ids.begin(), ids.end());
  return ids;
}

}  // namespace openmoe
