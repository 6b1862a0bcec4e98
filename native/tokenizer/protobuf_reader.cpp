#include "protobuf_reader.h"

#include <bit>
#include <string>

#include "tokenizer_error.h"

namespace openmoe {

bool ProtobufReader::next() {
  if (rest_.empty()) return false;
  const std::uint64_t tag = read_varint();
  field_ = static_cast<std::uint32_t>(tag >> 3);
  wire_ = static_cast<std::uint32_t>(tag & 7);
  if (tag > 0xFFFFFFFF || field_ == 0)
    throw TokenizerError("not a SentencePiece model: a protobuf tag is out of range");
  switch (wire_) {
    case kVarint:
      varint_ = read_varint();
      return true;
    case kFixed64:
      bytes_ = take(8);
      return true;
    case kBytes:
      bytes_ = take(read_varint());
      return true;
    case kFixed32:
      bytes_ = take(4);
      return true;
    default:
      throw TokenizerError("not a SentencePiece model: protobuf wire type " + std::to_string(wire_) + " is not in use");
  }
}

std::int32_t ProtobufReader::int32(std::int32_t otherwise) const {
  return wire_ == kVarint ? static_cast<std::int32_t>(static_cast<std::uint32_t>(varint_)) : otherwise;
}

float ProtobufReader::float32(float otherwise) const {
  if (wire_ != kFixed32) return otherwise;
  std::uint32_t bits = 0;
  for (int i = 3; i >= 0; --i) bits = bits << 8 | static_cast<unsigned char>(bytes_[i]);
  return std::bit_cast<float>(bits);
}

std::uint64_t ProtobufReader::read_varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw TokenizerError("not a SentencePiece model: a protobuf integer is longer than 10 bytes");
}

std::string_view ProtobufReader::take(std::uint64_t count) {
  if (count > rest_.size()) {
    throw TokenizerError("the SentencePiece model is truncated: a field wants " + std::to_string(count) + " bytes, " +
                         std::to_string(rest_.size()) + " are left");
  }
  const std::string_view taken = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return taken;
}

}  // namespace openmoe
