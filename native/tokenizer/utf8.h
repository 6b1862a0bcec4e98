// UTF-8 exactly as SentencePiece reads it: one malformed byte is one U+FFFD, and surrogates and overlong forms are
// malformed.
#pragma once

#include <cstddef>
#include <string_view>

namespace openmoe {

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD
inline constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581, stands for a blank inside pieces

// Bytes a character starting with `lead` would have; 1 for bytes that cannot start one. No check of what follows.
inline std::size_t one_char_len(unsigned char lead) { return "\1\1\1\1\1\1\1\1\1\1\1\1\2\2\3\4"[lead >> 4]; }

// Length of the well-formed character at the start of `text` (not empty), or 0 when its first byte is malformed.
std::size_t valid_char_len(std::string_view text);

bool is_valid_utf8(std::string_view text);

}  // namespace openmoe
