// What a tokenizer file says, whichever of the two formats it came in. Still unchecked: Vocabulary does that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace openmoe {

// The numbers are those of sentencepiece_model.proto.
enum class PieceType : std::uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // invisible in text: <pad>, </s>, sentinels
  kUserDefined = 4,  // always one token, never normalised
  kUnused = 5,
  kByte = 6,  // <0x00> ... <0xFF>
};

struct Piece {
  std::string_view text;
  float score = 0.0f;
  PieceType type = PieceType::kNormal;
};

struct NormalizerSpec {
  std::string charsmap;  // double array + replacement strings; empty: no character is replaced
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
};

struct ModelData {
  std::shared_ptr<const std::string> storage;  // the bytes `pieces` point into
  std::vector<Piece> pieces;
  NormalizerSpec normalizer;
  bool byte_fallback = false;
  std::string unk_surface = " \xe2\x81\x87 ";  // what decoding writes for <unk>
  std::string bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
};

// Fills `data` from the bytes of a spiece.model, which it copies. Throws TokenizerError.
void parse_spiece_model(std::string_view file, ModelData& data);

}  // namespace openmoe
