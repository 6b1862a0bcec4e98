// text -> ids, exactly as SentencePiece does it for a Unigram model. Ids -> text: text_decoder.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model_data.h"
#include "normalizer.h"
#include "vocabulary.h"

namespace openmoe {

class UnigramTokenizer {
 public:
  // Throws TokenizerError.
  explicit UnigramTokenizer(const ModelData& data);

  // `text` is UTF-8; malformed bytes become U+FFFD. No token is added, and text that spells a special token stays text.
  std::vector<std::int32_t> encode(std::string_view text, bool with_dummy_prefix = true) const;

  Vocabulary& vocabulary() { return vocabulary_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  const Normalizer& normalizer() const { return normalizer_; }
  const std::string& unk_surface() const { return unk_surface_; }
  // -1 when the model has no such control piece.
  std::int32_t bos_id() const { return bos_id_; }
  std::int32_t eos_id() const { return eos_id_; }
  std::int32_t pad_id() const { return pad_id_; }

 private:
  Vocabulary vocabulary_;
  Normalizer normalizer_;
  std::string unk_surface_;
  std::int32_t bos_id_, eos_id_, pad_id_;
};

}  // namespace openmoe
