// spiece.model: a protobuf ModelProto. Only fields that change encoding or decoding are read; field numbers are those
// of sentencepiece_model.proto.
#include <string>

#include "model_data.h"
#include "protobuf_reader.h"
#include "tokenizer_error.h"

namespace openmoe {
namespace {

Piece parse_piece(std::string_view message) {
  Piece piece;
  for (ProtobufReader r(message); r.next();) {
    if (r.field() == 1) piece.text = r.bytes(piece.text);
    if (r.field() == 2) piece.score = r.float32(piece.score);
    if (r.field() == 3) {
      const int type = r.int32(static_cast<int>(piece.type));
      if (type < 1 || type > 6) throw TokenizerError("SentencePiece model: piece type " + std::to_string(type));
      piece.type = static_cast<PieceType>(type);
    }
  }
  return piece;
}

void parse_trainer_spec(std::string_view message, ModelData& data) {
  constexpr int kUnigram = 1;
  for (ProtobufReader r(message); r.next();) {
    switch (r.field()) {
      case 3:
        if (r.int32(kUnigram) != kUnigram) {
          throw TokenizerError("trainer_spec.model_type is " + std::to_string(r.int32(0)) +
                               ", only UNIGRAM (1) is supported");
        }
        break;
      case 24:
        data.normalizer.treat_whitespace_as_suffix = r.boolean(false);
        break;
      case 35:
        data.byte_fallback = r.boolean(false);
        break;
      case 44:
        data.unk_surface = r.bytes(data.unk_surface);
        break;
      case 46:
        data.bos_piece = r.bytes(data.bos_piece);
        break;
      case 47:
        data.eos_piece = r.bytes(data.eos_piece);
        break;
      case 48:
        data.pad_piece = r.bytes(data.pad_piece);
        break;
      default:
        break;  // training settings
    }
  }
}

void parse_normalizer_spec(std::string_view message, NormalizerSpec& spec) {
  for (ProtobufReader r(message); r.next();) {
    switch (r.field()) {
      case 2:
        spec.charsmap = r.bytes(spec.charsmap);
        break;
      case 3:
        spec.add_dummy_prefix = r.boolean(spec.add_dummy_prefix);
        break;
      case 4:
        spec.remove_extra_whitespaces = r.boolean(spec.remove_extra_whitespaces);
        break;
      case 5:
        spec.escape_whitespaces = r.boolean(spec.escape_whitespaces);
        break;
      default:
        break;
    }
  }
}

}  // namespace

void parse_spiece_model(std::string_view file, ModelData& data) {
  data.storage = std::make_shared<const std::string>(file);
  data.pieces.reserve(file.size() / 16);  // about one piece per 16 bytes
  for (ProtobufReader r(*data.storage); r.next();) {
    if (!r.is_message()) continue;
    switch (r.field()) {
      case 1:
        data.pieces.push_back(parse_piece(r.bytes({})));
        break;
      case 2:
        parse_trainer_spec(r.bytes({}), data);
        break;
      case 3:
        parse_normalizer_spec(r.bytes({}), data.normalizer);
        break;
      case 5: {
        NormalizerSpec denormalizer;
        parse_normalizer_spec(r.bytes({}), denormalizer);
        // it rewrites whole decoded texts, which a stream of tokens cannot undo
        if (!denormalizer.charsmap.empty()) throw TokenizerError("denormalizer_spec is not supported");
        break;
      }
      default:
        break;  // self_test_data
    }
  }
}

}  // namespace openmoe
