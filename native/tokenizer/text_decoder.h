// ids -> text, a few ids at a time. Decoding everything at once is push() of all ids and flush(), so a stream of tokens
// and a whole answer cannot differ.
#pragma once

#include <cstdint>
#include <string>

#include "unigram_tokenizer.h"

namespace openmoe {

class TextDecoder {
 public:
  TextDecoder(const UnigramTokenizer& tokenizer, bool skip_special)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // Appends the text that is certain after this id. Byte pieces wait until their character is complete.
  // Ids after the vocabulary are the padding rows of an embedding: they decode to nothing. id >= 0.
  void push(std::int32_t id, std::string& out);
  // Appends U+FFFD for each byte of an unfinished character, and starts a new text.
  void flush(std::string& out);

 private:
  void push_byte(unsigned char byte, std::string& out);
  void push_text(std::string_view text, std::string& out);
  void push_piece(std::string_view piece, std::string& out);
  void end_bytes(std::string& out);

  const UnigramTokenizer* tokenizer_;
  bool skip_special_;
  std::string bytes_;        // the unfinished character: at most 3 bytes between two calls
  bool has_text_ = false;    // something was written
  bool took_blank_ = false;  // the blank put in front by encoding was removed
};

}  // namespace openmoe
