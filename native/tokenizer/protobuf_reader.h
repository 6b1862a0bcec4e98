// Reads one protobuf message field by field. Every length is checked against the bytes that are there, so a hostile
// file ends in a TokenizerError and never in a read outside the buffer.
#pragma once

#include <cstdint>
#include <string_view>

namespace openmoe {

class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view message) : rest_(message) {}

  // Moves to the next field; false at the end of the message.
  bool next();
  std::uint32_t field() const { return field_; }

  // The value of the current field. `otherwise` when the wire type is not the expected one: protobuf calls such a field
  // unknown and ignores it.
  std::int32_t int32(std::int32_t otherwise) const;
  bool boolean(bool otherwise) const { return wire_ == kVarint ? varint_ != 0 : otherwise; }
  float float32(float otherwise) const;
  std::string_view bytes(std::string_view otherwise) const { return wire_ == kBytes ? bytes_ : otherwise; }
  bool is_message() const { return wire_ == kBytes; }

 private:
  enum Wire : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  std::uint64_t read_varint();
  std::string_view take(std::uint64_t count);

  std::string_view rest_;
  std::uint32_t field_ = 0;
  std::uint32_t wire_ = 0;
  std::uint64_t varint_ = 0;
  std::string_view bytes_;
};

}  // namespace openmoe
