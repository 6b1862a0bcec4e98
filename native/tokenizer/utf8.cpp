#include "utf8.h"

#include <cstdint>

namespace openmoe {
namespace {

bool is_trail(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::size_t valid_char_len(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return 1;
  const std::size_t len = one_char_len(lead);
  if (len == 1 || lead >= 0xF8 || text.size() < len) return 0;

  std::uint32_t code = lead & (0xFFu >> (len + 1));
  for (std::size_t i = 1; i < len; ++i) {
    if (!is_trail(text[i])) return 0;
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
  }
  constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};  // anything below is an overlong form
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code >= kSmallest[len] && code <= 0x10FFFF && !surrogate ? len : 0;
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t len = valid_char_len(text);
    if (len == 0) return false;
    text.remove_prefix(len);
  }
  return true;
}

}  // namespace openmoe
