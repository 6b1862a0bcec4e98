// SentencePiece's text normalisation: characters replaced by the model's precompiled charsmap, blanks tidied, a blank
// put in front, blanks written as U+2581.
#pragma once

#include <string>
#include <string_view>

#include "double_array.h"
#include "model_data.h"

namespace openmoe {

class Normalizer {
 public:
  // `user_defined` must outlive the normaliser. Throws TokenizerError for a broken charsmap.
  Normalizer(const NormalizerSpec& spec, const PieceTrie& user_defined);
  Normalizer(const Normalizer&) = delete;  // replacements_ points into spec_
  Normalizer& operator=(const Normalizer&) = delete;

  // Throws TokenizerError when the result would pass kMaxNormalizedBytes.
  std::string normalize(std::string_view text, bool with_dummy_prefix) const;

  bool strips_leading_blank() const { return spec_.add_dummy_prefix || spec_.remove_extra_whitespaces; }
  bool removes_extra_whitespaces() const { return spec_.remove_extra_whitespaces; }

 private:
  struct Step {
    std::string_view replacement;
    std::size_t consumed;
  };
  Step normalize_prefix(std::string_view text) const;

  NormalizerSpec spec_;
  const PieceTrie& user_defined_;
  CharsmapTrie charsmap_;
  std::string_view replacements_;  // NUL-terminated strings, at the end of spec_.charsmap
};

}  // namespace openmoe
