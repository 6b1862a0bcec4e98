#include "text_decoder.h"

#include "utf8.h"

namespace openmoe {

void TextDecoder::push(std::int32_t id, std::string& out) {
  const Vocabulary& vocabulary = tokenizer_->vocabulary();
  if (id < vocabulary.size() && vocabulary.piece(id).type == PieceType::kByte) {
    push_byte(Vocabulary::byte_of(vocabulary.piece(id).text), out);
    return;
  }
  end_bytes(out);
  if (id >= vocabulary.size()) return;
  const Piece& piece = vocabulary.piece(id);
  switch (piece.type) {
    case PieceType::kControl:
      if (!skip_special_) push_text(piece.text, out);
      break;
    case PieceType::kUnknown:
      push_text(skip_special_ ? std::string_view(tokenizer_->unk_surface()) : piece.text, out);
      break;
    default:
      push_piece(piece.text, out);
  }
}

void TextDecoder::flush(std::string& out) {
  end_bytes(out);
  has_text_ = took_blank_ = false;
}

void TextDecoder::push_byte(unsigned char byte, std::string& out) {
  bytes_ += static_cast<char>(byte);
  // Complete characters, and bytes that can no longer become one, leave the queue.
  while (!bytes_.empty()) {
    const std::size_t len = valid_char_len(bytes_);
    if (len == 0) {
      const std::size_t wanted = one_char_len(static_cast<unsigned char>(bytes_[0]));
      if (bytes_.size() < wanted && (bytes_.back() & 0xC0) == (bytes_.size() == 1 ? 0xC0 : 0x80))
        return;  // may still become one
      push_text(kReplacement, out);
      bytes_.erase(0, 1);
    } else {
      push_text(std::string_view(bytes_).substr(0, len), out);
      bytes_.erase(0, len);
    }
  }
}

void TextDecoder::end_bytes(std::string& out) {
  for (; !bytes_.empty(); bytes_.pop_back()) push_text(kReplacement, out);
}

void TextDecoder::push_text(std::string_view text, std::string& out) {
  out += text;
  has_text_ |= !text.empty();
}

void TextDecoder::push_piece(std::string_view piece, std::string& out) {
  const Normalizer& normalizer = tokenizer_->normalizer();
  // Only the first blank is the one that encoding put in front. Where encoding removes blanks, decoding drops all at
  // the start.
  if (!has_text_ && !took_blank_ && normalizer.strips_leading_blank() && piece.starts_with(kSpaceSymbol)) {
    piece.remove_prefix(kSpaceSymbol.size());
    took_blank_ = !normalizer.removes_extra_whitespaces();
  }
  has_text_ |= !piece.empty();
  while (!piece.empty()) {
    const std::size_t blank = piece.find(kSpaceSymbol);
    out += piece.substr(0, blank);
    if (blank == std::string_view::npos) break;
    out += ' ';
    piece.remove_prefix(blank + kSpaceSymbol.size());
  }
}

}  // namespace openmoe
