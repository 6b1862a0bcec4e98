#include "normalizer.h"

#include "tokenizer_error.h"
#include "utf8.h"

namespace openmoe {
namespace {

// A charsmap may replace one byte by kilobytes; this keeps a hostile file from filling the memory.
constexpr std::size_t kMaxNormalizedBytes = std::size_t{64} << 20;

}  // namespace

Normalizer::Normalizer(const NormalizerSpec& spec, const PieceTrie& user_defined)
    : spec_(spec), user_defined_(user_defined) {
  if (spec_.charsmap.empty()) return;
  // <trie size in bytes, 32 bits little-endian> <trie> <replacements, each ended by NUL>
  const std::string_view blob = spec_.charsmap;
  std::size_t trie_size = 0;
  for (int i = 3; blob.size() > 4 && i >= 0; --i) trie_size = trie_size << 8 | static_cast<unsigned char>(blob[i]);
  if (blob.size() <= 4 || trie_size % 4 != 0 || trie_size >= blob.size() - 4) {
    throw TokenizerError("precompiled_charsmap is broken: " + std::to_string(blob.size()) +
                         " bytes, of which its trie wants " + std::to_string(trie_size));
  }
  replacements_ = blob.substr(4 + trie_size);
  charsmap_.load(blob.substr(4, trie_size), replacements_.size());
}

Normalizer::Step Normalizer::normalize_prefix(std::string_view text) const {
  if (!user_defined_.empty()) {
    if (const std::size_t len = user_defined_.longest_prefix(text)) return {text.substr(0, len), len};
  }
  if (const auto match = charsmap_.longest_prefix(text); match.length > 0) {
    const std::string_view from = replacements_.substr(match.value);
    return {from.substr(0, from.find('\0')), match.length};
  }
  const std::size_t len = valid_char_len(text);
  return len > 0 ? Step{text.substr(0, len), len} : Step{kReplacement, 1};
}

std::string Normalizer::normalize(std::string_view text, bool with_dummy_prefix) const {
  std::string out;
  const std::string_view space = spec_.escape_whitespaces ? kSpaceSymbol : " ";
  const bool dummy = with_dummy_prefix && spec_.add_dummy_prefix;

  if (spec_.remove_extra_whitespaces) {
    while (!text.empty()) {
      const Step step = normalize_prefix(text);
      if (step.replacement != " ") break;
      text.remove_prefix(step.consumed);
    }
  }
  if (text.empty()) return out;

  out.reserve(text.size() + text.size() / 4 + 8);
  if (dummy && !spec_.treat_whitespace_as_suffix) out += space;

  bool after_space = spec_.remove_extra_whitespaces;
  while (!text.empty()) {
    const Step step = normalize_prefix(text);
    text.remove_prefix(step.consumed);
    std::string_view piece = step.replacement;
    while (after_space && piece.starts_with(' ')) piece.remove_prefix(1);
    if (piece.empty()) continue;
    for (const char c : piece) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    after_space = spec_.remove_extra_whitespaces && piece.back() == ' ';
    if (out.size() > kMaxNormalizedBytes) throw TokenizerError("the text is longer than 64 MiB: encode it in parts");
  }

  while (spec_.remove_extra_whitespaces && out.ends_with(space)) out.resize(out.size() - space.size());
  if (dummy && spec_.treat_whitespace_as_suffix) out += space;
  return out;
}

}  // namespace openmoe
