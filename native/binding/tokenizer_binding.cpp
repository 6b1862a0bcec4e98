#include "binding/tokenizer_binding.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/text_decoder.h"
#include "tokenizer/tokenizer_error.h"
#include "tokenizer/unigram_tokenizer.h"

namespace openmoe {
namespace {

// Marks a Tokenizer that is passed as an argument: another object must be a JavaScript error, not a wild cast. A wrong
// `this` is refused by the engine.
constexpr napi_type_tag kTokenizerTag = {0x6f70656e6d6f6531, 0x746f6b656e697a72};

[[noreturn]] void fail(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  throw error;
}
[[noreturn]] void fail_arg(Napi::Env env, const std::string& message) { fail(env, "ERR_OPENMOE_INVALID_ARG", message); }

// Runs `body`; what it throws becomes a JavaScript error with a code.
template <class Body>
auto guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const TokenizerError& e) {
    fail(env, "ERR_OPENMOE_TOKENIZER", e.what());
  } catch (const std::bad_alloc&) {
    fail(env, "ERR_OPENMOE_OUT_OF_MEMORY", "not enough memory for the tokenizer");
  }
}

std::string_view bytes_of(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    fail_arg(value.Env(), std::string(name) + " must be a Uint8Array");
  }
  const auto array = value.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(array.Data()), array.ByteLength()};
}

std::string text_of(const Napi::Value& value, const char* name) {
  if (!value.IsString()) fail_arg(value.Env(), std::string(name) + " must be a string");
  return value.As<Napi::String>().Utf8Value();  // lone surrogates become U+FFFD
}

Napi::Int32Array ids_of(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    fail_arg(value.Env(), "ids must be an Int32Array");
  }
  const auto ids = value.As<Napi::Int32Array>();
  for (std::size_t i = 0; i < ids.ElementLength(); ++i) {
    if (ids.Data()[i] < 0) fail_arg(value.Env(), "ids[" + std::to_string(i) + "] is " + std::to_string(ids.Data()[i]));
  }
  return ids;
}

// { pieces: 'a\0b\0c', scores: Float32Array, types: Uint8Array, byteFallback, charsmap: Uint8Array, add..., ... }
void read_piece_table(const Napi::Object& table, ModelData& data) {
  data.storage = std::make_shared<const std::string>(text_of(table.Get("pieces"), "pieces"));
  const std::string_view types = bytes_of(table.Get("types"), "types");
  const Napi::Value scores_value = table.Get("scores");
  if (!scores_value.IsTypedArray() || scores_value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    fail_arg(table.Env(), "scores must be a Float32Array");
  }
  const auto scores = scores_value.As<Napi::Float32Array>();

  std::string_view rest = *data.storage;
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (i >= scores.ElementLength() || types[i] < 1 || types[i] > 6)
      fail_arg(table.Env(), "types and scores do not fit");
    const std::size_t end = std::min(rest.find('\0'), rest.size());
    data.pieces.push_back({rest.substr(0, end), scores.Data()[i], static_cast<PieceType>(types[i])});
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (!rest.empty()) fail_arg(table.Env(), "more pieces than types");
  data.byte_fallback = table.Get("byteFallback").ToBoolean();
  data.normalizer.charsmap = bytes_of(table.Get("charsmap"), "charsmap");
  data.normalizer.add_dummy_prefix = table.Get("addDummyPrefix").ToBoolean();
  data.normalizer.remove_extra_whitespaces = table.Get("removeExtraWhitespaces").ToBoolean();
}

class TokenizerWrap : public Napi::ObjectWrap<TokenizerWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Tokenizer",
        {InstanceMethod<&TokenizerWrap::encode>("encode"), InstanceMethod<&TokenizerWrap::decode>("decode"),
         InstanceMethod<&TokenizerWrap::id_to_piece>("idToPiece"),
         InstanceMethod<&TokenizerWrap::piece_to_id>("pieceToId"),
         InstanceMethod<&TokenizerWrap::add_token>("addToken"),
         InstanceMethod<&TokenizerWrap::control_pieces>("controlPieces"),
         InstanceAccessor<&TokenizerWrap::size>("vocabSize"), InstanceAccessor<&TokenizerWrap::unk_id>("unkId"),
         InstanceAccessor<&TokenizerWrap::bos_id>("bosId"), InstanceAccessor<&TokenizerWrap::eos_id>("eosId"),
         InstanceAccessor<&TokenizerWrap::pad_id>("padId")});
  }

  // new Tokenizer(Uint8Array of a spiece.model | piece table)
  explicit TokenizerWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const Napi::Env env = info.Env();
    tokenizer_ = guarded(env, [&] {
      ModelData data;
      if (info[0].IsTypedArray()) {
        parse_spiece_model(bytes_of(info[0], "the model"), data);
      } else if (info[0].IsObject()) {
        read_piece_table(info[0].As<Napi::Object>(), data);
      } else {
        fail_arg(env, "new Tokenizer() takes a Uint8Array or a piece table");
      }
      return std::make_shared<UnigramTokenizer>(data);
    });
    info.This().As<Napi::Object>().TypeTag(&kTokenizerTag);
  }

  std::shared_ptr<const UnigramTokenizer> shared() const { return tokenizer_; }

 private:
  // encode(text, withDummyPrefix) -> Int32Array
  Napi::Value encode(const Napi::CallbackInfo& info) {
    const std::string text = text_of(info[0], "text");
    const bool with_dummy_prefix = info[1].ToBoolean();
    const auto ids = guarded(info.Env(), [&] { return tokenizer_->encode(text, with_dummy_prefix); });
    auto result = Napi::Int32Array::New(info.Env(), ids.size());
    std::copy(ids.begin(), ids.end(), result.Data());
    return result;
  }

  // decode(ids: Int32Array, skipSpecial) -> string
  Napi::Value decode(const Napi::CallbackInfo& info) {
    const auto ids = ids_of(info[0]);
    TextDecoder decoder(*tokenizer_, info[1].ToBoolean());
    std::string text;
    for (std::size_t i = 0; i < ids.ElementLength(); ++i) decoder.push(ids.Data()[i], text);
    decoder.flush(text);
    return Napi::String::New(info.Env(), text);
  }

  // idToPiece(id) -> string | undefined
  Napi::Value id_to_piece(const Napi::CallbackInfo& info) {
    const double id = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
    if (!(id >= 0 && id < tokenizer_->vocabulary().size()) || id != static_cast<std::int32_t>(id))
      return info.Env().Undefined();
    return Napi::String::New(info.Env(),
                             std::string(tokenizer_->vocabulary().piece(static_cast<std::int32_t>(id)).text));
  }

  // pieceToId(piece) -> number, -1 when there is none
  Napi::Value piece_to_id(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), tokenizer_->vocabulary().find(text_of(info[0], "piece")));
  }

  // addToken(content, id, special)
  void add_token(const Napi::CallbackInfo& info) {
    const std::string content = text_of(info[0], "content");
    if (!info[1].IsNumber()) fail_arg(info.Env(), "id must be a number");
    const std::int32_t id = info[1].As<Napi::Number>().Int32Value();
    guarded(info.Env(), [&] { tokenizer_->vocabulary().add_token(content, id, info[2].ToBoolean()); });
  }

  // controlPieces() -> the control and unknown pieces
  Napi::Value control_pieces(const Napi::CallbackInfo& info) {
    const Vocabulary& vocabulary = tokenizer_->vocabulary();
    auto pieces = Napi::Array::New(info.Env());
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
      const Piece& piece = vocabulary.piece(id);
      if (piece.type != PieceType::kControl && piece.type != PieceType::kUnknown) continue;
      if (!piece.text.empty()) pieces.Set(pieces.Length(), Napi::String::New(info.Env(), std::string(piece.text)));
    }
    return pieces;
  }

  Napi::Value number(const Napi::CallbackInfo& info, std::int32_t value) {
    return Napi::Number::New(info.Env(), value);
  }
  Napi::Value size(const Napi::CallbackInfo& info) { return number(info, tokenizer_->vocabulary().size()); }
  Napi::Value unk_id(const Napi::CallbackInfo& info) { return number(info, tokenizer_->vocabulary().unk_id()); }
  Napi::Value bos_id(const Napi::CallbackInfo& info) { return number(info, tokenizer_->bos_id()); }
  Napi::Value eos_id(const Napi::CallbackInfo& info) { return number(info, tokenizer_->eos_id()); }
  Napi::Value pad_id(const Napi::CallbackInfo& info) { return number(info, tokenizer_->pad_id()); }

  std::shared_ptr<UnigramTokenizer> tokenizer_;
};

class StreamDecoderWrap : public Napi::ObjectWrap<StreamDecoderWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "StreamDecoder",
        {InstanceMethod<&StreamDecoderWrap::push>("push"), InstanceMethod<&StreamDecoderWrap::flush>("flush")});
  }

  // new StreamDecoder(tokenizer, skipSpecial)
  explicit StreamDecoderWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsObject() || !info[0].As<Napi::Object>().CheckTypeTag(&kTokenizerTag)) {
      fail_arg(info.Env(), "new StreamDecoder() takes a Tokenizer");
    }
    tokenizer_ = TokenizerWrap::Unwrap(info[0].As<Napi::Object>())->shared();
    decoder_ = std::make_unique<TextDecoder>(*tokenizer_, info[1].ToBoolean());
  }

 private:
  // push(ids: Int32Array) -> string
  Napi::Value push(const Napi::CallbackInfo& info) {
    const auto ids = ids_of(info[0]);
    std::string text;
    for (std::size_t i = 0; i < ids.ElementLength(); ++i) decoder_->push(ids.Data()[i], text);
    return Napi::String::New(info.Env(), text);
  }

  Napi::Value flush(const Napi::CallbackInfo& info) {
    std::string text;
    decoder_->flush(text);
    return Napi::String::New(info.Env(), text);
  }

  std::shared_ptr<const UnigramTokenizer> tokenizer_;  // a decoder may outlive the JavaScript tokenizer it came from
  std::unique_ptr<TextDecoder> decoder_;
};

}  // namespace

void init_tokenizer(Napi::Env env, Napi::Object exports) {
  exports.Set("Tokenizer", TokenizerWrap::define(env));
  exports.Set("StreamDecoder", StreamDecoderWrap::define(env));
}

}  // namespace openmoe
